//! Caddy as a server of files.

use super::super::super::net::SERVER;
use super::super::ports::{Port, Proxy};
use std::path::Path;

/// Its configuration.
pub(in super::super) fn caddy(dir: &Path) -> String {
    format!(
        "{{\n  admin off\n  auto_https off\n}}\n\
         http://{SERVER}:{port} {{\n  root * {pages}\n  file_server\n  \
         log {{\n    output file {log}\n  }}\n}}\n",
        port = Proxy::Caddy.port(Port::Files),
        pages = dir.join("pages").display(),
        log = dir.join("caddy-access.log").display(),
    )
}
