//! One HTTP request by hand, from an address of one's choice.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::wait;

/// The identity of the application that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Port of the copy, or the name that it has been given.
    pub port: u16,
    /// Process id of the copy.
    pub pid: u32,
    /// The client's address as the application sees it.
    pub remote: String,
}

/// Of a connection and of an answer: a machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to `to` from the address `from`.
pub fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), wait::slowed(TIMEOUT))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait::slowed(TIMEOUT)))?;
    Ok(stream)
}

/// `GET /id` on an open connection, which stays open.
pub fn ask(stream: &TcpStream) -> io::Result<Answer> {
    read(&exchange(stream)?.body)
}

/// The same, with an error for any status but 200.
pub fn ask_well(stream: &TcpStream) -> io::Result<Answer> {
    Ok(ask_again(stream)?.0)
}

/// The same, and whether the connection stays for another request.
pub fn ask_again(stream: &TcpStream) -> io::Result<(Answer, bool)> {
    let reply = exchange(stream)?;
    if reply.status != "200" {
        return Err(io::Error::other(format!("status {}", reply.status)));
    }
    Ok((read(&reply.body)?, reply.stays))
}

struct Reply {
    status: String,
    stays: bool,
    body: Vec<u8>,
}

fn exchange(mut stream: &TcpStream) -> io::Result<Reply> {
    stream.write_all(b"GET /id HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut stays) = (String::new(), 0, true);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        if status.is_empty() {
            line.split(' ')
                .nth(1)
                .unwrap_or("none")
                .clone_into(&mut status);
        }
        match line
            .split_once(':')
            .map(|(name, value)| (name, value.trim()))
        {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().map_err(io::Error::other)?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("connection") => {
                stays = !value.eq_ignore_ascii_case("close");
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Reply {
        status,
        stays,
        body,
    })
}

fn read(body: &[u8]) -> io::Result<Answer> {
    let json: serde_json::Value = serde_json::from_slice(body)?;
    let number = |name: &str| {
        json[name]
            .as_u64()
            .ok_or_else(|| io::Error::other("no number"))
    };
    Ok(Answer {
        port: number("port")? as u16,
        pid: number("pid")? as u32,
        remote: json["remote"].as_str().unwrap_or_default().to_owned(),
    })
}

/// A new connection, one request, and its end.
pub fn get(from: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    ask(&connect(from, to)?)
}
