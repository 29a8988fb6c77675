//! The response cache.

mod fresh;
mod key;
mod private;
mod stale;
mod together;
mod told;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, Proxy, field};

/// The line that turns it on.
const ON: &str = "[service.http.cache]";

/// An application that answers each request by a function, on as many connections as there come.
struct Origin {
    address: SocketAddr,
    /// The heads of the requests.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (answer, heads) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, heads) = (Arc::clone(&answer), Arc::clone(&heads));
                let mut client = Client::new(stream.unwrap());
                std::thread::spawn(move || {
                    while client.stream.peek(&mut [0]).is_ok_and(|length| length > 0) {
                        let head = client.head();
                        heads.lock().unwrap().push(head.clone());
                        client.send(&answer(&head));
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// With `lines` in the head of each answer, and the number of the request as its body.
    fn with(lines: &'static str) -> Self {
        let number = std::sync::atomic::AtomicU64::new(0);
        Self::new(move |_| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            ok(lines, &number.to_string())
        })
    }

    fn proxy(&self, settings: &str) -> Proxy {
        Proxy::before(vec![self.address.to_string()], settings)
    }

    /// How many requests came.
    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The head of the last one.
    fn last(&self) -> String {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    /// Waits for so many requests.
    #[track_caller]
    fn awaits(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.count() < count {
            assert!(Instant::now() < until, "{} requests", self.count());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An answer with these lines in its head.
fn ok(lines: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{lines}\r\n{body}")
}

/// The answer to a GET of `path`.
#[track_caller]
fn get(proxy: &Proxy, path: &str, lines: &str) -> Got {
    let mut client = proxy.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    Got::of(&mut client)
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    #[track_caller]
    fn of(client: &mut Client) -> Self {
        let (status, answer) = client.answer();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Self {
            status,
            head: format!("{head}\r\n"),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}
