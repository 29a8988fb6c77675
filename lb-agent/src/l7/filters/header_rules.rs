//! The header rules of a service and its route (see `rules`).

use hyper::StatusCode;
use lb_common::abi::BackendId;

use super::{Filter, Response, Source};
use crate::config::http::{HeaderRule, Operation, Variable};
use crate::l7::answers::Answer;
use crate::l7::context::RequestContext;
use crate::l7::rules::Rules;

struct HeaderRules {
    /// Changes to a request before its backend is chosen.
    request: Rules,
    /// Those that name the backend. They set, and never add: a request may be sent twice.
    backend: Rules,
    /// Changes to an answer.
    response: Rules,
}

pub(super) fn filter<'a>(
    of_requests: impl Iterator<Item = &'a HeaderRule> + Clone,
    of_responses: impl Iterator<Item = &'a HeaderRule>,
) -> Option<Box<dyn Filter>> {
    let rules = HeaderRules {
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

impl Filter for HeaderRules {
    fn request(&self, context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        context.apply(&self.request, None);
        Ok(None)
    }

    fn backend_chosen(&self, context: &mut RequestContext, backend: BackendId) {
        if !self.backend.is_empty() {
            let address = context.address_of(backend);
            context.apply(&self.backend, address.as_ref());
        }
    }

    fn response(&self, context: &RequestContext, response: &mut Response<'_>) {
        if self.response.is_empty() || response.source == Source::Gateway {
            return;
        }
        let address = match response.source {
            Source::Backend(backend) => context.address_of(backend),
            Source::Route | Source::Gateway => None,
        };
        let values = context.values(address.as_ref());
        self.response.apply(&mut response.head.fields, &values);
    }
}
