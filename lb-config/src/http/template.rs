//! Texts with variables, taken apart once when the configuration is read.

use std::fmt;

use crate::foreign;
use crate::value::{BadValue, quoted};

/// A text with variables, which are replaced for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// The parts in their order; no two literals follow each other.
    pub parts: Vec<Part>,
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A literal piece of text.
    Literal(String),
    /// A variable, which is replaced for each request.
    Variable(Variable),
}

macro_rules! variables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A variable that a template can name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Variable {
            $($(#[$doc])* $variant,)*
        }

        impl Variable {
            /// All variables, in their order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name, without the dollar sign.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

variables! {
    /// The client's address, the real one behind trusted proxies.
    ClientIp = "client_ip",
    /// The port of the peer of the connection.
    RemotePort = "remote_port",
    /// The host that the request names, as it is written there.
    Host = "host",
    /// The same without a port.
    Hostname = "hostname",
    /// The scheme: `http` or `https`.
    Scheme = "scheme",
    /// The port that the request came to.
    ServerPort = "server_port",
    /// The method of the request.
    Method = "method",
    /// Path and query, as the request has them.
    Uri = "uri",
    /// The path without the query.
    Path = "path",
    /// The query without its question mark; empty if there is none.
    Query = "query",
    /// The id of the request.
    RequestId = "request_id",
    /// The trace id; empty if the request has no valid `traceparent`.
    TraceId = "trace_id",
    /// The address of the backend; empty if there is none.
    Backend = "backend",
    /// The name of the service.
    Service = "service",
    /// `SUCCESS` with a verified certificate of the client, else `NONE`.
    ClientCertVerify = "client_cert_verify",
    /// The subject of the client's certificate (RFC 4514); empty without one.
    ClientCertSubject = "client_cert_subject",
    /// The issuer of the client's certificate (RFC 4514); empty without one.
    ClientCertIssuer = "client_cert_issuer",
    /// The serial number of the client's certificate in hexadecimal; empty without one.
    ClientCertSerial = "client_cert_serial",
    /// SHA-256 of the client's certificate in hexadecimal; empty without one.
    ClientCertFingerprint = "client_cert_fingerprint",
    /// The client's certificate as in `Client-Cert` (RFC 9440); empty without one.
    ClientCert = "client_cert",
}

impl Variable {
    /// Whether it tells about the client's certificate.
    pub fn is_of_client_certificate(self) -> bool {
        matches!(
            self,
            Self::ClientCertVerify
                | Self::ClientCertSubject
                | Self::ClientCertIssuer
                | Self::ClientCertSerial
                | Self::ClientCertFingerprint
                | Self::ClientCert
        )
    }
}

impl Template {
    /// Parses `text`. `$$` is a dollar sign; `${name}` keeps a name apart from the text behind it.
    pub fn parse(text: &str) -> Result<Self, BadValue> {
        let mut template = Self::default();
        let mut unknown = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            template.literal(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                template.literal("$");
                rest = after;
                continue;
            }
            let (name, after) = name(rest).ok_or_else(|| no_name(text))?;
            match variable(name) {
                Some(known) => template.parts.push(Part::Variable(known)),
                None if unknown.contains(&name) => {}
                None => unknown.push(name),
            }
            rest = after;
        }
        template.literal(rest);
        match unknown.as_slice() {
            [] => Ok(template),
            names => Err(no_variables(names)),
        }
    }

    /// Whether the template has `variable` in it.
    pub fn names(&self, variable: Variable) -> bool {
        self.parts.contains(&Part::Variable(variable))
    }

    /// Whether the template tells about the client's certificate.
    pub fn names_client_certificate(&self) -> bool {
        let is_one = |part: &Part| matches!(part, Part::Variable(variable) if variable.is_of_client_certificate());
        self.parts.iter().any(is_one)
    }

    /// The text, if there is no variable in it.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    fn literal(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Literal(before)) => before.push_str(text),
            _ => self.parts.push(Part::Literal(text.to_owned())),
        }
    }
}

/// The template as it could be written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(text) => f.write_str(&text.replace('$', "$$"))?,
                Part::Variable(variable) => write!(f, "${{{}}}", variable.name())?,
            }
        }
        Ok(())
    }
}

/// Splits `text`, which follows a dollar sign, into a name and the rest.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced.split_once('}');
    }
    let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !known(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn variable(name: &str) -> Option<Variable> {
    let mut all = Variable::ALL.iter();
    all.find(|known| known.name() == name).copied()
}

/// The names that are no variables, each with its remedy.
fn no_variables(names: &[&str]) -> BadValue {
    let shown = names.iter().map(|name| quoted(&format!("${name}")));
    let shown: Vec<String> = shown.collect();
    let is = if names.len() == 1 {
        "is not a variable"
    } else {
        "are not variables"
    };
    let mut remedies: Vec<String> = names.iter().map(|name| remedy(name)).collect();
    remedies.dedup();
    BadValue {
        problem: format!("{} {is}", shown.join(", ")),
        remedy: remedies.join("; "),
    }
}

fn remedy(name: &str) -> String {
    let distance = |known: &&Variable| strsim::damerau_levenshtein(name, known.name());
    let near = Variable::ALL.iter().min_by_key(distance);
    let near = near.filter(|known| name.len() <= 64 && distance(known) <= 3);
    match (foreign::variable(name), near) {
        (Some(ours), _) => format!("for ${name} of nginx write ${ours}"),
        (None, Some(known)) => format!("did you mean ${}?", known.name()),
        (None, None) => format!("there is {}", all()),
    }
}

fn all() -> String {
    let names: Vec<String> = Variable::ALL
        .iter()
        .map(|known| format!("${}", known.name()))
        .collect();
    names.join(", ")
}

fn no_name(text: &str) -> BadValue {
    BadValue {
        problem: format!("{} has a dollar sign without a name", quoted(text)),
        remedy: "write $$ for a dollar sign".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Template::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn variables_are_found_between_texts() {
        let parts = |text| Template::parse(text).unwrap().parts;
        let literal = |text: &str| Part::Literal(text.to_owned());
        assert_eq!(
            parts("https://$host$uri"),
            [
                literal("https://"),
                Part::Variable(Variable::Host),
                Part::Variable(Variable::Uri)
            ]
        );
        assert_eq!(
            parts("a$$b${host}c"),
            [literal("a$b"), Part::Variable(Variable::Host), literal("c")]
        );
        assert_eq!(parts(""), []);
    }

    #[test]
    fn what_is_no_variable_gets_a_proposal() {
        assert_eq!(
            wrong("$clientip"),
            "\"$clientip\" is not a variable (did you mean $client_ip?)"
        );
        assert_eq!(
            wrong("https://$host$request_uri"),
            "\"$request_uri\" is not a variable (for $request_uri of nginx write $uri)"
        );
        assert_eq!(
            wrong("$remote_addr:$host$request_uri$remote_addr$clientip"),
            "\"$remote_addr\", \"$request_uri\", \"$clientip\" are not variables (for $remote_addr of nginx write \
             $client_ip; for $request_uri of nginx write $uri; did you mean $client_ip?)"
        );
        assert!(wrong("$zzzzzzzzzzzz").contains("(there is $client_ip, $remote_port, "));
        assert_eq!(
            wrong("5$"),
            "\"5$\" has a dollar sign without a name (write $$ for a dollar sign)"
        );
        assert!(wrong("${host").contains("without a name"));
    }

    #[test]
    fn a_template_is_shown_as_it_could_be_written() {
        for text in ["$host/$$x${uri}y", "plain", ""] {
            let template = Template::parse(text).unwrap();
            assert_eq!(Template::parse(&template.to_string()).unwrap(), template);
        }
    }
}
