//! Varnish before the first backend.

use super::super::super::net::{BACKENDS, SERVER};
use super::super::ports::{Port, Proxy};
use std::path::Path;

/// Its configuration: what it does by itself.
pub(in super::super) fn varnish() -> String {
    let [first, _] = BACKENDS;
    format!("vcl 4.1;\nbackend app {{ .host = \"127.0.0.1\"; .port = \"{first}\"; }}\n")
}

/// The script that starts it, and the program that writes its access log and ends with it.
pub(in super::super) fn start_varnish(dir: &Path, file: &Path) -> String {
    let (name, log) = (dir.join("varnish"), dir.join("varnish-access.log"));
    let port = Proxy::Varnish.port(Port::Cached);
    format!(
        "setpriv --pdeathsig KILL varnishncsa -t off -n {name:?} -w {log:?} -F '{FORMAT}' &\n\
         exec varnishd -F -j none -n {name:?} -a {SERVER}:{port} -f {file:?} -s malloc,64m \
         -p thread_pools=1\n"
    )
}

const FORMAT: &str = "%h - %u %t \"%r\" %s %b \"%{Referer}i\" \"%{User-Agent}i\" \
    first_byte=%{Varnish:time_firstbyte}x total=%T cache=%{Varnish:hitmiss}x";
