//! Hosts in network namespaces, an agent on one of them, applications behind it, and clients.
//!
//! The tests use the command line and the control socket as operators do. Only `bpf_*` and the users of
//! `plane` reach into the agent's library. Every test makes its own hosts and nothing outlives it.

pub mod agent;
pub mod both;
pub mod chromium;
pub mod clock;
pub mod disk;
pub mod exchange;
pub mod flaky_backend;
pub mod http;
pub mod junk_traffic;
pub mod kernel_map;
pub mod limited;
pub mod load;
pub mod node;
pub mod old_kernels;
pub mod packets;
pub mod plane;
pub mod pm2;
pub mod process;
pub mod prog_run;
pub mod random;
pub mod root;
pub mod skip;
pub mod stub_server;
pub mod syn_flood;
pub mod systemd;
pub mod tls;
pub mod topology;
pub mod tunnel;
pub mod wait;
pub mod wire;
