//! One raw request, and the raw answer to it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends the standard input, and returns the bytes that come back until the server closes the connection.
/// The request has to ask for that (`Connection: close`).
pub(crate) async fn run(to: SocketAddr) -> anyhow::Result<Value> {
    let mut request = Vec::new();
    tokio::io::stdin().read_to_end(&mut request).await?;
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .context("the connection stays open")??;
    Ok(json!({ "answer": answer }))
}
