//! The PROXY header at the beginning of a client's connection (see `proxy::header`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use lb_net::proxy_protocol::{self, Parsed};

/// Bytes that are looked at together: more than nearly all headers have.
const PIECE: usize = 2048;

/// Reads the header that `stream` begins with, and not one byte more. `None` if it tells no
/// addresses; an error if there is none within `within`.
pub(super) async fn read(
    stream: &mut TcpStream,
    within: Duration,
) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    timeout(within, whole(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn whole(stream: &mut TcpStream) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut taken = Vec::with_capacity(128);
    let mut piece = [0; PIECE];
    loop {
        let length = stream.peek(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = taken.len();
        taken.extend_from_slice(&piece[..length]);
        let (addresses, end) = match proxy_protocol::parse(&taken) {
            Parsed::Header { addresses, length } => (Some(addresses), length),
            Parsed::Partial => (None, taken.len()),
            Parsed::Wrong => return Err(io::ErrorKind::InvalidData.into()),
        };
        // The peeked bytes are taken, as far as they belong to the header.
        stream.read_exact(&mut piece[..end - before]).await?;
        if let Some(addresses) = addresses {
            return Ok(addresses);
        }
    }
}
