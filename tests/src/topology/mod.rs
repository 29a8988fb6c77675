//! The networks of the tests: hosts in network namespaces, and wires between them.
//!
//! | module | network |
//! | --- | --- |
//! | [`hosts`] | one host, and two that are joined by a wire |
//! | [`routed`] | clients, a router, the balancer, a server behind the router and a container |

pub mod hosts;
pub mod routed;
