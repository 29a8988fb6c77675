//! WebSockets (RFC 6455) as far as small messages that come back need them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::idle::{Kind, open_many};

/// The example of RFC 6455, section 1.3, with its answer: nobody here is to be protected.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A WebSocket.
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

/// Reads to the end of a head. Nothing is sent after it before something was asked.
pub(crate) async fn read_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read_buf(&mut head).await?;
        ensure!(count > 0 && head.len() < 16_384, "closed within a head");
    }
    String::from_utf8(head).context("a head that is no text")
}

/// A masked binary message; the mask is 0, which is a mask like any other.
fn message(size: usize) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(size).ok().filter(|length| *length < 126);
    let length = length.context("at most 125 bytes")?;
    let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0];
    frame.resize(6 + size, b'x');
    Ok(frame)
}

/// Messages there and back on `sockets` connections for some time.
pub(crate) async fn messages(
    to: SocketAddr,
    time: Duration,
    sockets: usize,
    size: usize,
) -> anyhow::Result<Value> {
    let streams = open_many(to, Kind::Websocket, sockets).await?;
    let frame: Rc<[u8]> = message(size)?.into();
    let count = Rc::new(Cell::new(0u64));
    let begun = Instant::now();
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        let (frame, count) = (Rc::clone(&frame), Rc::clone(&count));
        tasks.spawn_local_on(
            async move {
                let mut back = vec![0; frame.len() - 4];
                while begun.elapsed() < time {
                    stream.write_all(&frame).await?;
                    stream.read_exact(&mut back).await?;
                    count.set(count.get() + 1);
                }
                anyhow::Ok(())
            },
            &local,
        );
    }
    let mut errors = 0;
    local
        .run_until(async {
            while let Some(ended) = tasks.join_next().await {
                errors += u64::from(!matches!(ended, Ok(Ok(()))));
            }
        })
        .await;
    let per_second = count.get() as f64 / begun.elapsed().as_secs_f64();
    Ok(json!({ "per_second": per_second, "count": count.get(), "errors": errors }))
}
