//! The agent: `cli -> control -> reconcile -> {state, dataplane}`.
//!
//! | module | owns |
//! | --- | --- |
//! | [`admission`] | how many clients are let in, and who makes room |
//! | [`allocator`] | memory that is not in use any more |
//! | [`cli`] | arguments, commands, everything that is printed |
//! | [`config`] | the configuration file, checked whole |
//! | [`control`] | the control socket: messages, server, client |
//! | [`reconcile`] | the one task that changes anything |
//! | [`state`] | what should be, what is, and the plan from one to the other |
//! | [`crowd`] | the connections of the control and the metrics socket |
//! | [`dataplane`] | what moves connections: the kernel, or tables in memory |
//! | [`health`] | checks of the backends, and what they say of them |
//! | [`doctor`] | what of the machine stands in the way |
//! | [`errors`] | errors as operators read them |
//! | [`fuzz`] | what must hold for any bytes from the network |
//! | [`handover`] | listening sockets that outlive an agent |
//! | [`host`] | choices made on the host, by the kernel's own function |
//! | [`l7`] | `mode = "http"`: requests, TLS, compression, access log |
//! | [`network`] | interfaces, routes and neighbours of this host |
//! | [`privilege`] | what the process and its threads give up |
//! | [`proxy`] | the userspace path |
//! | [`metrics`] | figures as Prometheus metrics, and the socket for them |
//! | [`report`] | what `status` and `lookup` tell |
//! | [`run`] | the life of the agent, from start to stop |
//! | [`seldom`] | lines of the log that come every now and then |
//! | [`sockdiag`] | questions to the kernel about single TCP sockets |
//! | [`sockopt`] | socket options that the crates do not know |

pub mod admission;
pub mod allocator;
pub mod cli;
pub mod config;
pub mod control;
pub mod crowd;
pub mod dataplane;
pub mod doctor;
pub mod errors;
pub mod fuzz;
pub mod handover;
pub mod health;
pub mod host;
pub mod l7;
pub mod metrics;
pub mod network;
pub mod privilege;
pub mod proxy;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod seldom;
pub mod sockdiag;
pub mod sockopt;
pub mod state;
