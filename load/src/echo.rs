//! A backend that sends WebSocket messages back, unmasked.

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::websocket::{ACCEPT, read_head};

/// Serves until it is killed.
pub(crate) async fn serve(listen: &[SocketAddr]) -> anyhow::Result<Value> {
    let mut listeners = JoinSet::new();
    for address in listen {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(*address)?;
        listeners.spawn(accept(socket.listen(8192)?));
    }
    while let Some(ended) = listeners.join_next().await {
        ended??;
    }
    Ok(Value::Null)
}

async fn accept(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that does something else is not served.
        tokio::spawn(async move { drop(converse(stream).await) });
    }
}

async fn converse(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    read_head(&mut stream).await?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let (mut head, mut message) = ([0; 6], Vec::new());
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return Ok(());
        }
        let length = head[1] & 0x7f;
        ensure!(length < 126, "only small messages");
        message.clear();
        message.extend_from_slice(&[head[0], length]);
        message.resize(2 + usize::from(length), 0);
        stream.read_exact(&mut message[2..]).await?;
        let mask = [head[2], head[3], head[4], head[5]];
        for (byte, mask) in message[2..].iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        stream.write_all(&message).await?;
    }
}
