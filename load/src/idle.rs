//! Connections that do nothing.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::connections::{Kind, open_many};

/// Opens connections, says so, and holds them until the input ends.
pub(crate) async fn run(to: SocketAddr, kind: Kind, count: usize) -> anyhow::Result<Value> {
    let streams = open_many(to, kind, count).await?;
    println!("open");
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await?;
    Ok(json!({ "count": streams.len() }))
}
