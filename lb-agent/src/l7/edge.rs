//! What stands between a service and its clients, beside the forwarding: TLS, compression, the
//! access log. Made from the configuration when it is put in force.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::access_log::{Sink, Writer};
use super::compress::Compressor;
use super::tls::{Certificates, TicketKeys, Watcher, server_config};
use crate::config::http::{AccessLog, CertificateFiles, Hsts, HttpService, Tls};

/// The edge of one service.
#[derive(Default)]
pub(super) struct Edge {
    /// What connections to its TLS addresses are accepted with; `None` closes them.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// What makes answers smaller.
    pub(super) compressor: Option<Compressor>,
    /// Where requests are noted.
    pub(super) log: Option<Arc<Sink>>,
    /// `Strict-Transport-Security`, for answers over TLS.
    pub(super) hsts: Option<String>,
    /// The port to which plain requests are sent.
    pub(super) redirect_port: Option<u16>,
}

/// What is shared by the edges and outlives changes of the configuration.
#[derive(Default)]
pub(super) struct Edges {
    tickets: Option<TicketKeys>,
    watcher: Option<Watcher>,
    writer: Option<Writer>,
    certificates: HashMap<Vec<CertificateFiles>, Arc<Certificates>>,
    problems: Vec<String>,
}

impl Edges {
    /// Begins to make the edges of a new state of the configuration.
    pub(super) fn begin(&mut self) {
        self.problems.clear();
    }

    /// The edge of a service.
    pub(super) fn of(&mut self, service: &HttpService) -> Edge {
        let settings = &service.settings;
        let log = settings.access_log.as_ref();
        let mut edge = Edge {
            compressor: Compressor::new(&settings.compression),
            log: log.and_then(|log| match self.sink(log) {
                Ok(sink) => Some(sink),
                Err(error) => {
                    self.problem(format!("{}: no access log: {error}", service.name));
                    None
                }
            }),
            ..Edge::default()
        };
        let Some(tls) = &service.tls else {
            return edge;
        };
        match self.tls(tls) {
            Ok(config) => edge.tls = Some(config),
            Err(problem) => self.problem(format!("{}: no TLS: {problem}", service.name)),
        }
        edge.hsts = tls.hsts.as_ref().and_then(hsts);
        let port = tls.listen.first().map(std::net::SocketAddr::port);
        edge.redirect_port = port.filter(|_| tls.redirect_http);
        edge
    }

    /// Forgets what none of the services in force uses.
    pub(super) fn keep_only<'a>(
        &mut self,
        services: impl Iterator<Item = &'a HttpService> + Clone,
    ) {
        let tls = services.clone().filter_map(|service| service.tls.as_ref());
        let files: Vec<_> = tls.map(|tls| &tls.certificates).collect();
        self.certificates
            .retain(|certificates, _| files.contains(&certificates));
        let logs: Vec<_> = services
            .filter_map(|service| service.settings.access_log.as_ref())
            .collect();
        if let Some(writer) = &mut self.writer {
            writer.keep_only(&logs);
        }
    }

    /// Has the certificates read again when they are next put in force. To be called after they
    /// were found to be good.
    pub(super) fn read_certificates_again(&mut self) {
        self.certificates.clear();
    }

    /// What `status` should tell.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let of_files = self.certificates.values().flat_map(|all| all.status());
        let of_files = of_files.filter_map(|status| {
            let problem = status.problem?;
            let told = problem.contains(&status.certificate);
            Some(if told {
                problem
            } else {
                format!("{}: {problem}", status.certificate)
            })
        });
        let of_logs = self.writer.iter().flat_map(Writer::problems);
        self.problems.iter().cloned().chain(of_files).chain(of_logs)
    }

    /// Opens the files of the access logs anew.
    pub(super) fn reopen_logs(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// Waits until all lines that were sent are written.
    pub(super) fn flush_logs(&self) {
        if let Some(writer) = &self.writer {
            writer.flush(Duration::from_secs(5));
        }
    }

    fn problem(&mut self, problem: String) {
        tracing::error!("{problem}");
        self.problems.push(problem);
    }

    fn sink(&mut self, log: &AccessLog) -> io::Result<Arc<Sink>> {
        if self.writer.is_none() {
            self.writer = Some(Writer::start()?);
        }
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::Other)?;
        Ok(writer.sink(log))
    }

    fn tls(&mut self, tls: &Tls) -> Result<Arc<ServerConfig>, String> {
        let certificates = self.certificates(&tls.certificates)?;
        let tickets = match &self.tickets {
            Some(tickets) => tickets,
            None => {
                let new = TicketKeys::new().map_err(|error| error.to_string())?;
                self.tickets.insert(new)
            }
        };
        server_config(certificates, tls.min_version, tls.http2, tickets)
            .map_err(|error| error.to_string())
    }

    /// Those in these files; read once, and kept fresh from then on.
    fn certificates(&mut self, files: &[CertificateFiles]) -> Result<Arc<Certificates>, String> {
        if let Some(known) = self.certificates.get(files) {
            return Ok(Arc::clone(known));
        }
        let read = Certificates::load(files).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        })?;
        if self.watcher.is_none() {
            self.watcher = Watcher::start()
                .inspect_err(|error| tracing::error!(%error, "certificates are not watched"))
                .ok();
        }
        if let Some(watcher) = &self.watcher {
            watcher.watch(&read);
        }
        self.certificates.insert(files.to_vec(), Arc::clone(&read));
        Ok(read)
    }
}

/// RFC 6797, section 6.1.
fn hsts(hsts: &Hsts) -> Option<String> {
    let mut text = format!("max-age={}", hsts.max_age.as_secs());
    if hsts.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if hsts.preload {
        text.push_str("; preload");
    }
    Some(text)
}

/// Where a plain request should have gone (RFC 9110, section 10.2.2); `None` without a host.
pub(super) fn redirect_target(host: &[u8], port: u16, target: &[u8]) -> Option<String> {
    let host = std::str::from_utf8(host)
        .ok()
        .filter(|host| !host.is_empty())?;
    // The port that it has is that of plain HTTP.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let port = match port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let target = std::str::from_utf8(target).ok()?;
    Some(format!("https://{name}{port}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_is_sent_to_the_same_place_over_tls() {
        let to = |host: &str, port, target| {
            redirect_target(host.as_bytes(), port, str::as_bytes(target))
        };
        let same = "https://example.com/a?b=c";
        assert_eq!(to("example.com", 443, "/a?b=c").as_deref(), Some(same));
        assert_eq!(to("example.com:80", 443, "/a?b=c").as_deref(), Some(same));
        assert_eq!(
            to("[::1]:8080", 8443, "/").as_deref(),
            Some("https://[::1]:8443/")
        );
        assert_eq!(to("[::1]", 443, "/").as_deref(), Some("https://[::1]/"));
        assert_eq!(to("", 443, "/"), None);
    }

    #[test]
    fn strict_transport_security_is_what_was_asked_for() {
        let plain = Hsts {
            max_age: Duration::from_secs(180 * 86_400),
            include_subdomains: false,
            preload: false,
        };
        assert_eq!(hsts(&plain).unwrap(), "max-age=15552000");
        let all = Hsts {
            include_subdomains: true,
            preload: true,
            ..plain
        };
        let text = "max-age=15552000; includeSubDomains; preload";
        assert_eq!(hsts(&all).unwrap(), text);
    }
}
