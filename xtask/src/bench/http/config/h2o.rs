//! h2o as a server of files.

use super::super::super::net::SERVER;
use super::super::ports::{Port, Proxy};
use std::path::Path;

/// Its configuration. It keeps descriptors open by itself.
pub(in super::super) fn h2o(dir: &Path) -> String {
    format!(
        "user: root\nnum-threads: 1\nmax-connections: 8192\npid-file: {pid:?}\n\
         listen:\n  host: {SERVER}\n  port: {port}\n\
         access-log:\n  path: {log:?}\n  format: {FORMAT:?}\n\
         hosts:\n  default:\n    paths:\n      \"/\":\n        file.dir: {pages:?}\n",
        pid = dir.join("h2o.pid"),
        port = Proxy::H2o.port(Port::Files),
        log = dir.join("h2o-access.log"),
        pages = dir.join("pages"),
    )
}

const FORMAT: &str =
    "%h - %u %t \"%r\" %s %b \"%{Referer}i\" \"%{User-Agent}i\" total=%{duration}x";
