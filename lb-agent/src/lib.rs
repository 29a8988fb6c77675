//! The agent: its modules from the ground up. Each uses those above it in this table, and no other;
//! `cargo xtask tidy` sees to that.
//!
//! | module | owns |
//! | --- | --- |
//! | [`allocator`] | return of unused memory to the kernel |
//! | [`errors`] | errors as operators read them |
//! | [`sockdiag`] | questions to the kernel about single TCP sockets |
//! | [`crowd`] | the connections of the control socket, the metrics and the live page |
//! | [`privilege`] | privileges that the process and its threads give up |
//! | [`network`] | interfaces, routes and neighbours of this host |
//! | [`state`] | desired and observed state, and the plan from one to the other |
//! | [`dataplane`] | assignment of connections: in the kernel, or by tables in memory |
//! | [`host`] | choices made on the host, by the kernel's own function |
//! | [`health`] | checks of the backends, and their results |
//! | [`control`] | the control socket: messages, server, client |
//! | [`metrics`] | figures as Prometheus metrics, and the socket for them |
//! | [`page`] | the live page for a browser, and the socket for it |
//! | [`proxy`] | the userspace path |
//! | [`http`] | the engine of `lb-http`, over the tables of the agent |
//! | [`doctor`] | obstacles on this machine |
//! | [`report`] | the answers to `status` and `lookup` |
//! | [`reconcile`] | the one task that changes anything |
//! | [`takeover`] | the change from one agent to the next without a gap |
//! | [`run`] | the life of the agent, from start to stop |
//! | [`cli`] | arguments, commands, everything that is printed |

pub mod allocator;
pub mod cli;
pub mod control;
pub mod crowd;
pub mod dataplane;
pub mod doctor;
pub mod errors;
pub mod health;
pub mod host;
pub mod http;
pub mod metrics;
pub mod network;
pub mod page;
pub mod privilege;
pub mod proxy;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod sockdiag;
pub mod state;
pub mod takeover;
