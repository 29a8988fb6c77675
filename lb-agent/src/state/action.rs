//! Single changes of the tables: what a plan consists of, and what a data plane carries out.

use lb_common::abi::packet::{Target, Vip, VipKey};
use lb_common::abi::{Backend, BackendId, ServiceId, ServiceKey};

use super::table::Built;

/// One change of the tables. Each is atomic for the connections that come meanwhile.
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
    /// Stops doing so.
    Unlisten(ServiceKey),
    /// Says how packets get to a backend.
    PutTarget(Target),
    /// Packets do not get to a backend any more.
    DropTarget(BackendId),
    /// Has the packet paths know an address.
    PutVip(VipKey, Vip),
    /// Has them forget it.
    DropVip(VipKey),
    /// Voids a backend: from now on its id means nothing.
    RemoveBackend(BackendId),
    /// Frees the id of a service that has no listen address and no backend any more.
    DropService(ServiceId),
}
