//! Small messages of WebSockets (RFC 6455), which come back.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{JoinSet, LocalSet};

use crate::connections::{Kind, open_many};

/// A masked binary message; the mask is 0, which is a mask like any other.
fn message(size: usize) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(size).ok().filter(|length| *length < 126);
    let length = length.context("at most 125 bytes")?;
    let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0];
    frame.resize(6 + size, b'x');
    Ok(frame)
}

/// Messages there and back on `sockets` connections for some time.
pub(crate) async fn run(
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
