//! The handshake of WebSockets (RFC 6455).

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The example key of RFC 6455, section 1.3, with its answer. No browser needs protection here, so
/// the key need not be random.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Opens a WebSocket, with a completed handshake.
pub(crate) async fn open(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: bench.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {head}");
    Ok(stream)
}

/// Reads to the end of a head. The server sends nothing after it until the next request.
pub(crate) async fn read_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read_buf(&mut head).await?;
        ensure!(count > 0 && head.len() < 16_384, "closed within a head");
    }
    String::from_utf8(head).context("a head that is no text")
}
