//! The layer between a service and its clients: TLS and the access log. Made from the configuration when it
//! is put in force.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::ServerConfig;

use super::access_log::{Sink, Writer};
use super::tables::Confine;
use super::tls::{CertificateStatus, Certificates, TicketKeys, server_config};
use super::watch::{Watched, Watcher};
use lb_config::http::{AccessLog, CertificateFiles, HttpService, Tls};

/// The settings for the connections of one service.
#[derive(Default)]
pub(super) struct ListenerConfig {
    /// The TLS configuration for connections to its TLS addresses; `None` closes them.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The access log of its requests.
    pub(super) log: Option<Arc<Sink>>,
}

/// The state that all of them share and that outlives changes of the configuration.
pub(super) struct ListenerConfigs {
    confine: Confine,
    tickets: Option<TicketKeys>,
    watcher: Option<Watcher>,
    writer: Option<Writer>,
    certificates: HashMap<Vec<CertificateFiles>, Arc<Certificates>>,
    problems: Vec<String>,
}

impl ListenerConfigs {
    /// Without any; threads are confined by `confine`.
    pub(super) fn new(confine: Confine) -> Self {
        Self {
            confine,
            tickets: None,
            watcher: None,
            writer: None,
            certificates: HashMap::new(),
            problems: Vec::new(),
        }
    }

    /// Begins to make those of a new state of the configuration.
    pub(super) fn begin(&mut self) {
        self.problems.clear();
    }

    /// That of a service.
    pub(super) fn of(&mut self, service: &HttpService) -> ListenerConfig {
        let settings = &service.settings;
        let log = settings.access_log.as_ref();
        let mut listener = ListenerConfig {
            log: log.and_then(|log| match self.sink(log) {
                Ok(sink) => Some(sink),
                Err(error) => {
                    self.problem(format!("{}: no access log: {error}", service.name));
                    None
                }
            }),
            ..ListenerConfig::default()
        };
        let Some(tls) = &service.tls else {
            return listener;
        };
        match self.tls(tls) {
            Ok(config) => listener.tls = Some(config),
            Err(problem) => self.problem(format!("{}: no TLS: {problem}", service.name)),
        }
        listener
    }

    /// Forgets entries that none of the services in force uses.
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

    /// Whether a certificate from these files is in force.
    pub(super) fn has_certificate(&self, pair: &CertificateFiles) -> bool {
        self.certificates.values().any(|all| all.has(pair))
    }

    /// Problems for `status`.
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

    /// The certificates in force that were read from these files; none if they cannot be used.
    pub(super) fn certificates_of(&self, files: &[CertificateFiles]) -> Vec<CertificateStatus> {
        let known = self.certificates.get(files);
        known
            .map(|certificates| certificates.status())
            .unwrap_or_default()
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
            self.writer = Some(Writer::start(self.confine)?);
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
            self.watcher = Watcher::start(self.confine, "certificates")
                .inspect_err(|error| tracing::error!(%error, "certificates are not watched"))
                .ok();
        }
        if let Some(watcher) = &self.watcher {
            let files: Weak<dyn Watched> = Arc::<Certificates>::downgrade(&read);
            watcher.watch(files);
        }
        self.certificates.insert(files.to_vec(), Arc::clone(&read));
        Ok(read)
    }
}
