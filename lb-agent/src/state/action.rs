//! Single changes of the tables. A plan is a list of them, and a data plane carries them out.

use std::fmt;
use std::net::SocketAddr;

use lb_common::abi::packet::{Target, Vip, VipKey};
use lb_common::abi::{Backend, BackendId, ServiceId, ServiceKey};

use lb_common::addr::{self, Addr};
use lb_common::table::Built;

/// One change of the tables. Each change is atomic for the connections that arrive meanwhile.
#[derive(Clone, Debug)]
pub enum Action {
    /// Gives a service id its name.
    NameService(ServiceId, String),
    /// Writes a backend's entry: new, or with another state, weight or path.
    PutBackend(Backend),
    /// Swaps in a service's table.
    PutTable(ServiceId, Built),
    /// Sends the connections of a listen address to a service.
    Listen(ServiceKey, ServiceId),
    /// Stops sending the connections of a listen address to its service.
    Unlisten(ServiceKey),
    /// Sets the way by which packets reach a backend.
    PutTarget(Target),
    /// Removes that entry: packets reach the backend no longer.
    DropTarget(BackendId),
    /// Enters an address in the destination table of the packet paths.
    PutVip(VipKey, Vip),
    /// Removes an address from the destination table of the packet paths.
    DropVip(VipKey),
    /// Voids a backend: from now on its id means nothing.
    RemoveBackend(BackendId),
    /// Frees the id of a service that has no listen address and no backend any more.
    DropService(ServiceId),
}

fn at(addr: &Addr, port: u16) -> SocketAddr {
    SocketAddr::new(addr::to_ip(addr), port)
}

/// The change in a few words, for errors.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameService(id, name) => write!(f, "name service {} {name}", id.0),
            Self::PutBackend(backend) => {
                write!(f, "enter the backend {}", at(&backend.addr, backend.port))
            }
            Self::PutTable(id, _) => write!(f, "put the table of service {} in force", id.0),
            Self::Listen(key, _) => write!(f, "listen on {}", at(&key.addr, key.port)),
            Self::Unlisten(key) => write!(f, "listen no more on {}", at(&key.addr, key.port)),
            Self::PutTarget(_) => f.write_str("set the way of packets to a backend"),
            Self::DropTarget(id) => write!(f, "end the way of packets to backend {}", id.index()),
            Self::PutVip(..) => f.write_str("enter an address of the packet paths"),
            Self::DropVip(_) => f.write_str("remove an address of the packet paths"),
            Self::RemoveBackend(id) => write!(f, "remove backend {}", id.index()),
            Self::DropService(id) => write!(f, "free service {}", id.0),
        }
    }
}
