//! The header rules of a service and its route (see `rules`).

use lb_common::abi::BackendId;

use super::{Filter, Response, Source, Verdict};
use crate::request::{Backends, Request};
use crate::rules::{Rules, Values};
use lb_config::BackendAddress;
use lb_config::http::{HeaderRule, Operation, Variable};

struct HeaderRules {
    service: String,
    /// Changes to a request before its backend is chosen.
    request: Rules,
    /// Those that name the backend. They set, and never add: a request may be sent twice.
    backend: Rules,
    /// Changes to an answer.
    response: Rules,
}

pub(super) fn filter<'a>(
    service: &str,
    of_requests: impl Iterator<Item = &'a HeaderRule> + Clone,
    of_responses: impl Iterator<Item = &'a HeaderRule>,
) -> Option<Box<dyn Filter>> {
    let rules = HeaderRules {
        service: service.to_owned(),
        request: Rules::new(of_requests.clone().filter(|rule| !names_backend(rule))),
        backend: Rules::new(of_requests.filter(|rule| names_backend(rule))),
        response: Rules::new(of_responses),
    };
    let is_empty =
        rules.request.is_empty() && rules.backend.is_empty() && rules.response.is_empty();
    (!is_empty).then(|| Box::new(rules) as Box<dyn Filter>)
}

fn names_backend(rule: &HeaderRule) -> bool {
    match &rule.operation {
        Operation::Set(value) | Operation::Add(value) => value.names(Variable::Backend),
        Operation::Remove => false,
    }
}

impl HeaderRules {
    fn apply(&self, rules: &Rules, request: &mut Request, backend: Option<&BackendAddress>) {
        if rules.is_empty() {
            return;
        }
        // Variables mean the request as it was before the rules.
        let (host, target) = (request.head.host().to_vec(), request.head.target().to_vec());
        let values = Values {
            service: &self.service,
            origin: &request.origin,
            asker: &request.asker,
            method: &request.head.method,
            host: &host,
            target: &target,
            trace: request.trace.as_ref(),
            backend,
        };
        rules.apply_to_request(&mut request.head.fields, &values);
    }
}

impl Filter for HeaderRules {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        self.apply(&self.request, request, None);
        Ok(None)
    }

    fn backend_chosen(&self, request: &mut Request, backends: &dyn Backends, backend: BackendId) {
        if !self.backend.is_empty() {
            let address = backends.address(backend);
            self.apply(&self.backend, request, address.as_ref());
        }
    }

    fn response(&self, request: &Request, backends: &dyn Backends, response: &mut Response<'_>) {
        if self.response.is_empty() {
            return;
        }
        let address = match response.source {
            Source::Backend(backend) => backends.address(backend),
            Source::Route | Source::Files | Source::Cache => None,
            Source::Gateway => return,
        };
        let values = request.values(&self.service, address.as_ref());
        self.response.apply(&mut response.head.fields, &values);
    }
}
