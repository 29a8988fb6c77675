//! The layer between a service and its clients: TLS and the access log. Made from the configuration when it
//! is put in force.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::access_log::{Sink, Writer};
use super::tables::Confine;
use super::tls::{
    CertificateStatus, Certificates, ClientAuth, ClientAuthStatus, ServerConfigs, TicketKeys,
};
use super::watch::{Watched, Watcher};
use lb_config::http::{AccessLog, CertificateFiles, ClientCertificates, HttpService, Tls};

/// The settings for the connections of one service.
#[derive(Default)]
pub(super) struct ListenerConfig {
    /// The TLS configurations for connections to its TLS addresses; `None` closes them.
    pub(super) tls: Option<ServerConfigs>,
    /// The access log of its requests.
    pub(super) log: Option<Arc<Sink>>,
}

/// The state that all of them share and that outlives changes of the configuration.
pub(super) struct ListenerConfigs {
    confine: Confine,
    /// By service: a ticket of one service says nothing to another.
    tickets: HashMap<String, TicketKeys>,
    /// By service.
    clients: HashMap<String, Arc<ClientAuth>>,
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
            tickets: HashMap::new(),
            clients: HashMap::new(),
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
        match self.tls(&service.name, tls) {
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
        let named = services.clone().filter_map(|service| {
            let tls = service.tls.as_ref()?;
            Some((service.name.as_str(), tls.client.is_some()))
        });
        let named: HashMap<&str, bool> = named.collect();
        self.tickets
            .retain(|name, _| named.contains_key(name.as_str()));
        self.clients
            .retain(|name, _| named.get(name.as_str()) == Some(&true));
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
        for client in self.clients.values() {
            if let Some(Err(problem)) = client.refresh(true) {
                tracing::error!("{problem}");
            }
        }
    }

    /// The verification of the certificates of clients of a service.
    pub(super) fn client_auth_of(&self, service: &str) -> Option<ClientAuthStatus> {
        self.clients.get(service).map(|client| client.status())
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
        let of_clients = self.clients.values();
        let of_clients = of_clients.flat_map(|client| client.status().problems);
        let of_logs = self.writer.iter().flat_map(Writer::problems);
        self.problems
            .iter()
            .cloned()
            .chain(of_files)
            .chain(of_clients)
            .chain(of_logs)
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

    fn tls(&mut self, service: &str, tls: &Tls) -> Result<ServerConfigs, String> {
        let certificates = self.certificates(&tls.certificates)?;
        let client = match &tls.client {
            Some(settings) => Some(self.client(service, settings)?),
            None => None,
        };
        let tickets = self.tickets(service).map_err(|error| error.to_string())?;
        ServerConfigs::new(certificates, tls, &tickets, client).map_err(|error| error.to_string())
    }

    /// The ticket keys of a service, which stay the same.
    fn tickets(&mut self, service: &str) -> Result<TicketKeys, rustls::Error> {
        if let Some(known) = self.tickets.get(service) {
            return Ok(known.clone());
        }
        let new = TicketKeys::new()?;
        self.tickets.insert(service.to_owned(), new.clone());
        Ok(new)
    }

    /// The verification of the certificates of a service's clients. It stays, with its session tickets, as long as the
    /// settings are the same.
    fn client(
        &mut self,
        service: &str,
        settings: &ClientCertificates,
    ) -> Result<Arc<ClientAuth>, String> {
        let known = self.clients.get(service);
        if let Some(known) = known.filter(|known| known.is_of(settings)) {
            return Ok(Arc::clone(known));
        }
        let read = ClientAuth::load(settings)?;
        let files: Weak<dyn Watched> = Arc::<ClientAuth>::downgrade(&read);
        self.watch(files);
        self.clients.insert(service.to_owned(), Arc::clone(&read));
        Ok(read)
    }

    fn watch(&mut self, files: Weak<dyn Watched>) {
        if self.watcher.is_none() {
            self.watcher = Watcher::start(self.confine, "certificates")
                .inspect_err(|error| tracing::error!(%error, "certificates are not watched"))
                .ok();
        }
        if let Some(watcher) = &self.watcher {
            watcher.watch(files);
        }
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
        let watched: Weak<dyn Watched> = Arc::<Certificates>::downgrade(&read);
        self.watch(watched);
        self.certificates.insert(files.to_vec(), Arc::clone(&read));
        Ok(read)
    }
}
