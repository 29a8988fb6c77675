//! The backends: nginx with an answer of each kind.

use super::super::super::config::nginx;
use std::path::Path;

/// A backend on a port of the loopback.
pub(in super::super) fn backend(dir: &Path, port: u16) -> String {
    format!(
        "{}http {{\n  access_log off;\n  sendfile on;\n  keepalive_requests 1000000000;\n  \
         client_body_buffer_size 128k;\n  \
         server {{\n    listen 127.0.0.1:{port} backlog=8192;\n    root {};\n{LOCATIONS}  }}\n}}\n",
        nginx(&format!("backend-{port}")),
        dir.join("pages").display()
    )
}

/// `/1k` and `/64k` may be stored. `/post` says how long the body was announced to be, `/seen` what the proxy made of the request;
/// SSI takes the length away from `/chunked`; `/socket.io/` opens sessions and answers polls.
const LOCATIONS: &str = r#"
    location = / { return 200 ok; }
    location = /1k { add_header Cache-Control max-age=3600; }
    location = /64k { add_header Cache-Control max-age=3600; }
    location = /post { return 200 $content_length; }
    location = /seen {
      return 200 "rule=$http_x_bench client=$http_x_real_ip for=$http_x_forwarded_for port=$server_port";
    }
    location = /chunked { ssi on; default_type text/html; }
    location = /items.json { default_type application/json; }
    location = /socket.io/ {
      if ($arg_sid = "") {
        return 200 '0{"sid":"$request_id","upgrades":[],"pingInterval":25000,"pingTimeout":20000}';
      }
      return 200 "4port=$server_port";
    }
"#;
