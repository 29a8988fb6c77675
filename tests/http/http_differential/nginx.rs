//! nginx as a reverse proxy, set to change as little as it can.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::engine::free_port;

/// A running nginx, ended when dropped.
pub(crate) struct Nginx {
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Nginx {
    pub(crate) fn new(backend: SocketAddr) -> Self {
        Self::with(&proxy(backend))
    }

    /// With these lines in its block `http`, and these in its server.
    pub(crate) fn with((of_http, of_server): &(String, String)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_port();
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config(address, of_http, of_server)).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "error.log"])
            .spawn()
            .expect("nginx is installed");
        let mut nginx = Self {
            address,
            child,
            _dir: dir,
        };
        nginx.wait();
        nginx
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.address).is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "nginx ended");
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(listen: SocketAddr, of_http: &str, of_server: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid nginx.pid;\n\
         error_log error.log warn;\nevents {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  \
         fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
         keepalive_requests 1000000;\n  client_max_body_size 0;\n  \
         {of_http}\n  server {{\n    listen {listen};\n    {of_server}\n  }}\n}}\n"
    )
}

/// The lines of a proxy.
fn proxy(backend: SocketAddr) -> (String, String) {
    let http = format!("upstream app {{ server {backend} max_fails=0; keepalive 8; }}");
    let server = "location / {\n      proxy_pass http://app;\n      \
         proxy_http_version 1.1;\n      proxy_request_buffering off;\n      \
         proxy_redirect off;\n      proxy_pass_header Date;\n      \
         proxy_pass_header Server;\n      proxy_set_header Host $http_host;\n      \
         proxy_set_header Connection \"\";\n    }";
    (http, server.to_owned())
}
