//! Many connections, opened a few at once: WebSockets, or connections that had one request.

use std::net::SocketAddr;

use anyhow::ensure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::websocket;

/// Connections that are being opened at once.
const OPENING: usize = 64;

/// The kind of connection to hold open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A WebSocket
    Websocket,
    /// A connection that stays after its first request
    KeepAlive,
}

/// `count` connections, opened a few at once.
pub(crate) async fn open_many(
    to: SocketAddr,
    kind: Kind,
    count: usize,
) -> anyhow::Result<Vec<TcpStream>> {
    let (mut streams, mut opening) = (Vec::with_capacity(count), JoinSet::new());
    for started in 0..count {
        if started >= OPENING
            && let Some(opened) = opening.join_next().await
        {
            streams.push(opened??);
        }
        opening.spawn(open(to, kind));
    }
    while let Some(opened) = opening.join_next().await {
        streams.push(opened??);
    }
    Ok(streams)
}

async fn open(to: SocketAddr, kind: Kind) -> anyhow::Result<TcpStream> {
    match kind {
        Kind::Websocket => websocket::open(to).await,
        Kind::KeepAlive => ask_once(to).await,
    }
}

/// A connection after its first request, which was answered with "ok".
async fn ask_once(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let count = stream.read_buf(&mut answer).await?;
        ensure!(count > 0, "closed within an answer");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "not the answer");
    Ok(stream)
}
