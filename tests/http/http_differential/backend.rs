//! A backend that answers each request by the script of its number.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::LAST;
use super::answers::Script;
use super::message::{Message, unchunk};

/// A backend. Its threads end with the process.
pub(crate) struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<u64, Script>>,
    seen: Mutex<HashMap<u64, Message>>,
}

impl Backend {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let backend = Self {
            address,
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        backend
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the answer to the request with this number.
    pub(crate) fn answer(&self, number: u64, script: Script) {
        let mut scripts = self.shared.scripts.lock().unwrap();
        scripts.insert(number, script);
    }

    /// The last request with this number that the backend got.
    pub(crate) fn seen(&self, number: u64) -> Option<Message> {
        self.shared.seen.lock().unwrap().remove(&number)
    }
}

/// Answers until a script closes the connection, or the proxy does.
fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    while let Some(request) = next(&mut stream, &mut read) {
        let number = request.get("x-case").and_then(|number| number.parse().ok());
        let number = number.unwrap_or(LAST);
        let script = shared.scripts.lock().unwrap().get(&number).cloned();
        let script = script.unwrap_or_else(Script::last);
        shared.seen.lock().unwrap().insert(number, request);
        if stream.write_all(&script.bytes).is_err() || script.closes {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
            return;
        }
    }
}

/// The next request with its body.
fn next(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Message> {
    let mut piece = [0; 16_384];
    loop {
        if let Some((mut request, length)) = Message::head(read) {
            let rest = &read[length..];
            let body = match request.is_chunked() {
                true => match unchunk(rest) {
                    Ok(body) => body,
                    Err(_) => return None,
                },
                false => {
                    let length = request.length().unwrap_or(0);
                    rest.get(..length).map(|body| (body.to_vec(), length))
                }
            };
            if let Some((body, taken)) = body {
                request.body = body;
                read.drain(..length + taken);
                return Some(request);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(length) => read.extend_from_slice(&piece[..length]),
        }
    }
}
