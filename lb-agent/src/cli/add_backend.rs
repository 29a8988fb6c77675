//! `lb-agent add-backend`: one more backend, or one back in service.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::message::Command;
use crate::control::status::{ServiceStatus, Status};
use crate::dataplane::{self, bpf::takes_datagrams};
use lb_config::BackendAddress;

/// Time for an application on another host to take a connection, before the command says that it does not.
const ANSWER: Duration = Duration::from_millis(300);

/// Add a backend, or put one back in service
///
/// New clients go to it as soon as the command returns. Known clients of other backends stay there. It
/// is kept over restarts, until remove-backend.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent add-backend 127.0.0.1:5001 --weight 2")]
pub(super) struct AddBackend {
    /// Address of the application; a port alone, or localhost and a port, means 127.0.0.1
    #[arg(value_name = "ADDR", value_parser = super::backend_address)]
    address: BackendAddress,
    /// Service that gets it [default: the one that has or had it, else the only one]
    #[arg(long, value_name = "NAME", env = super::SERVICE, value_parser = super::service_name)]
    service: Option<String>,
    /// Its share in relation to the other backends [default: 1]
    #[arg(long, value_name = "N", value_parser = super::weight, allow_negative_numbers = true)]
    weight: Option<u16>,
    /// Longest time to wait until the application takes connections, before it is added
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    wait: Option<Duration>,
    /// Do not complain when it is in service already
    #[arg(long)]
    ensure: bool,
}

impl AddBackend {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self {
            address,
            service,
            weight,
            wait,
            ensure,
        } = self;
        if let Some(patience) = wait {
            let udp = wait_for(is_udp(control, service.as_deref(), &address))?;
            wait_for(ready(&address, udp, patience))??;
        }
        let command = Command::AddBackend {
            address: address.clone(),
            service: service.clone(),
            weight,
            ensure,
        };
        let message = wait_for(control.client().change(&command))?
            .map_err(|error| Failure::of_call("add-backend", error))?;
        if wait.is_some() || wait_for(answers(control, &address, service))? {
            return output::line(&message);
        }
        // Notes about others follow in lines of their own.
        let first = message.lines().next().unwrap_or_default();
        let rest = &message[first.len()..];
        output::line(&format!("{first} (it does not answer yet){rest}"))
    }
}

/// Whether the service that is meant balances UDP. If that cannot be found out, the command itself says why.
async fn is_udp(control: &Control, service: Option<&str>, address: &BackendAddress) -> bool {
    let status: Result<Status, _> = control.client().read(&Command::Status).await;
    let has_it = |found: &ServiceStatus| {
        let mut backends = found.backends.iter();
        backends.any(|backend| backend.address == *address)
    };
    status.is_ok_and(|status| {
        let services = || status.services.iter();
        let meant = match service {
            Some(name) => services().find(|found| found.name == name),
            None => services().find(|found| has_it(found)).or(services().next()),
        };
        meant.is_some_and(|found| found.mode == "udp")
    })
}

/// Whether an application on another host takes connections. The answer is yes where nothing can be said: of
/// datagrams, and of this host, about which the agent has told already.
async fn answers(control: &Control, address: &BackendAddress, service: Option<String>) -> bool {
    let remote = address.ip().filter(|ip| !dataplane::is_local(ip.ip()));
    let Some(remote) = remote else {
        return true;
    };
    let connected = timeout(ANSWER, TcpStream::connect(remote)).await;
    matches!(connected, Ok(Ok(_))) || is_udp(control, service.as_deref(), address).await
}

/// Waits until the application at `address` is there: by a connection, or with `udp` by its socket.
async fn ready(address: &BackendAddress, udp: bool, patience: Duration) -> Result<(), Failure> {
    let remote = |address: &&SocketAddr| !dataplane::is_local(address.ip());
    if udp && let Some(address) = address.ip().as_ref().filter(remote) {
        return Err(Failure::failed(format!(
            "add-backend: whether an application on another host takes datagrams at {address} cannot be \
             found out (leave --wait out)"
        )));
    }
    let deadline = Instant::now() + patience;
    loop {
        let connecting = async {
            match address {
                BackendAddress::Ip(address) if udp => match takes_datagrams(*address) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(io::ErrorKind::NotConnected.into()),
                    Err(error) => Err(error),
                },
                BackendAddress::Ip(address) => TcpStream::connect(address).await.map(drop),
                BackendAddress::Unix(path) => UnixStream::connect(path).await.map(drop),
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let cause = match timeout(left, connecting).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.kind().to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(Failure::failed(format!(
                "add-backend: {address} takes no {} within {}: {cause} (is the application running, on \
                 this address?)",
                if udp { "datagrams" } else { "connections" },
                humantime::format_duration(patience)
            )));
        }
        sleep(Duration::from_millis(50)).await;
    }
}
