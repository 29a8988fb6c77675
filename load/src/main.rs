//! Load and backends for benchmarks that no packaged program gives: TLS handshakes that count, and
//! WebSockets. One thread, so that it takes the same share of the machine for every measured
//! program.
//!
//! Every command prints one JSON object, the figures of its run or the bytes of an answer.

mod ask;
mod connections;
mod echo;
mod handshakes;
mod idle;
mod messages;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Parser)]
#[command(
    name = "lb-load",
    about = "Load and backends for `cargo xtask bench http`"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be a backend that sends WebSocket messages back
    Echo {
        /// Addresses to listen on
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Connect, shake hands, ask once, close; again and again
    Handshakes {
        to: SocketAddr,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Connections at once
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Resume the session of the connection before
        #[arg(long)]
        resume: bool,
    },
    /// Send small messages over WebSockets and wait for each to come back
    Websockets {
        to: SocketAddr,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        #[arg(long, default_value_t = 200)]
        sockets: usize,
        /// Bytes in a message
        #[arg(long, default_value_t = 32)]
        size: usize,
    },
    /// Open connections, say so, and hold them until the input ends
    Idle {
        to: SocketAddr,
        #[arg(long, value_enum, default_value_t = connections::Kind::Websocket)]
        kind: connections::Kind,
        #[arg(long, default_value_t = 10_000)]
        sockets: usize,
    },
    /// Send the standard input, and print what comes back until the connection ends
    Ask { to: SocketAddr },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!("{}", runtime.block_on(run(cli.command))?);
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<serde_json::Value> {
    match command {
        Command::Echo { listen } => echo::serve(&listen).await,
        Command::Handshakes {
            to,
            seconds,
            connections,
            resume,
        } => handshakes::run(to, Duration::from_secs(seconds), connections, resume).await,
        Command::Websockets {
            to,
            seconds,
            sockets,
            size,
        } => messages::run(to, Duration::from_secs(seconds), sockets, size).await,
        Command::Idle { to, kind, sockets } => idle::run(to, kind, sockets).await,
        Command::Ask { to } => ask::run(to).await,
    }
}

/// Ten thousand sockets take as many files.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
