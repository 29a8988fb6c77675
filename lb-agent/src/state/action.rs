//! Single changes of the tables. A plan is a list of them, and a data plane carries them out.

use lb_common::abi::packet::{Target, Vip, VipKey};
use lb_common::abi::{Backend, BackendId, ServiceId, ServiceKey};

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
