//! The figures of HTTP: requests, latencies, bytes, tunnels and TLS handshakes, by service and by backend.
//!
//! | file | owns |
//! | --- | --- |
//! | `labels` | the bounded sets of methods, status classes and causes |
//! | `histogram` | the buckets of latencies |
//! | `count` | a counter with one writer |
//! | `blocks` | the counters of one worker for one service or backend |
//! | `figures` | their sums over all workers |
//! | `meters` | the blocks of a worker, made when they are first needed |
//! | `registry` | all blocks, for a reader |
//!
//! A block has one writer, the worker that made it. Counting is a load and a store, without a lock and
//! without a cache line that two workers write.

mod blocks;
mod count;
mod figures;
mod histogram;
mod labels;
mod meters;
mod registry;

pub use figures::{BackendFigures, ServiceFigures, SessionFigures};
pub use histogram::{BOUNDS_NS, HistogramFigures};
pub use labels::{
    AUTH_VERDICTS, CAUSES, CacheResult, GATEWAY_STATUSES, HANDSHAKES, LIMITS, METHODS, SOURCES,
    STATUSES,
};
pub(super) use labels::{AuthVerdict, Cause, Handshake, Method, Source, Status};
pub(super) use meters::{BackendMeter, Meters, ServiceMeter};
pub(super) use registry::Registry;
