//! `upstream`, and the servers of `proxy_pass`.

use toml::Value;

use super::Import;
use super::tree::Directive;
use super::values;
use crate::document::table;
use crate::report::Origin;

/// Backends, and the settings that belong to them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backends {
    /// Addresses or tables, as the key `backends` takes them.
    pub(super) list: Vec<Value>,
    pub(super) origin: Origin,
    /// Whether they speak HTTP/2 (`grpc_pass`).
    pub(super) h2c: bool,
    /// The value of `stickiness`, if it is not the address.
    pub(super) stickiness: Option<Value>,
    /// Settings of `[service.http.upstream]`.
    pub(super) settings: Vec<(&'static str, Value)>,
}

impl Backends {
    /// Backends at `address` alone.
    pub(super) fn single(address: String, origin: &Origin) -> Self {
        Self {
            list: vec![Value::String(address)],
            origin: origin.clone(),
            h2c: false,
            stickiness: None,
            settings: Vec::new(),
        }
    }

    /// Whether both name the same ones.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.list == other.list && self.h2c == other.h2c
    }
}

/// The backends of `upstream` with servers whose port is `port` where they name none.
pub(super) fn read(upstream: &Directive, port: u16, import: &Import<'_>) -> Backends {
    upstream.take();
    let mut backends = Backends {
        list: Vec::new(),
        origin: upstream.origin.clone(),
        h2c: false,
        stickiness: None,
        settings: Vec::new(),
    };
    let spreads = [
        "ip_hash",
        "hash",
        "sticky",
        "least_conn",
        "random",
        "least_time",
    ];
    let is_round = |one: &Directive| !spreads.contains(&one.name.as_str());
    for directive in upstream.inside() {
        match directive.name.as_str() {
            "server" => {
                directive.take();
                let server = server(directive, port, import, &mut backends.settings);
                backends.list.extend(server);
            }
            "keepalive" => {
                directive.take();
                if let Ok(number) = directive.arg(0).parse::<i64>() {
                    set(&mut backends.settings, "keepalive", number.into());
                }
            }
            "hash" | "sticky" => {
                directive.take();
                let found = stickiness(directive, import);
                let is_taken = |found: &Value| {
                    crate::is_taken(&format!("[service.http]\nstickiness = {found}"))
                };
                if found.as_ref().is_some_and(|found| !is_taken(found)) {
                    import.lost(
                        directive,
                        "its name is none of a cookie, a header or a query; the address is taken",
                    );
                }
                backends.stickiness = found.filter(is_taken);
            }
            "least_conn" | "random" | "least_time" => {
                directive.take();
                import.differs(
                    directive,
                    "clients stay with one backend; `max_load = 1.25` in the service bounds the load of a backend",
                );
            }
            _ => {}
        }
    }
    if backends.list.len() == 1 {
        let hash = upstream.inside().iter().find(|one| one.name == "hash");
        if let Some(hash) = hash {
            import.needless(hash, "there is one server");
            backends.stickiness = None;
        }
    }
    if backends.list.len() > 1 && upstream.inside().iter().all(is_round) {
        import.differs(
            upstream,
            "clients stay with one backend, where nginx goes round robin; see docs/stickiness.md",
        );
    }
    backends
}

fn set(settings: &mut Vec<(&'static str, Value)>, name: &'static str, value: Value) {
    if !settings.iter().any(|(known, _)| *known == name) {
        settings.push((name, value));
    }
}

/// One `server` of an upstream.
fn server(
    directive: &Directive,
    port: u16,
    import: &Import<'_>,
    settings: &mut Vec<(&'static str, Value)>,
) -> Option<Value> {
    let Some(address) = values::address(directive.arg(0), port) else {
        import.lost(
            directive,
            "a backend is an address; write that of the name into `backends`",
        );
        return None;
    };
    let mut weight = None;
    for parameter in directive.args.iter().skip(1) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "weight" => weight = value.parse::<i64>().ok(),
            "max_fails" => {
                if let Ok(number) = value.parse::<i64>() {
                    set(settings, "max_fails", number.into());
                }
            }
            "fail_timeout" => {
                match values::time(value).as_deref() {
                    // No time at all means that a server is never passed by.
                    Some("0s") => set(settings, "max_fails", 0.into()),
                    Some(time) => set(settings, "fail_timeout", time.into()),
                    None => import.lost(directive, "fail_timeout is no time"),
                }
            }
            "down" => {
                import.differs(
                    directive,
                    "left out, as it is down; `lb-agent add-backend` adds it",
                );
                return None;
            }
            "backup" => {
                import.lost(
                    directive,
                    "there are no backup servers; add it by `lb-agent add-backend` when it is wanted",
                );
                return None;
            }
            "resolve" | "service" => {
                import.lost(directive, "names are not resolved");
            }
            _ => import.lost(
                directive,
                &format!("the parameter {name} has no counterpart"),
            ),
        }
    }
    Some(match weight {
        Some(weight) if weight != 1 => {
            table([("address", address.into()), ("weight", weight.into())])
        }
        _ => address.into(),
    })
}

/// `stickiness` by `sticky cookie`.
fn cookie(directive: &Directive, import: &Import<'_>) -> Value {
    let mut keys = toml::Table::new();
    keys.insert("cookie".to_owned(), directive.arg(1).into());
    for parameter in directive.args.iter().skip(2) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let (key, value) = match name {
            "expires" => match values::time(value) {
                Some(time) => ("max_age", time.into()),
                None => continue,
            },
            "domain" => ("domain", value.trim_start_matches('.').into()),
            "path" => ("path", value.into()),
            "secure" => ("secure", true.into()),
            "samesite" => ("same_site", value.to_ascii_lowercase().into()),
            "httponly" => continue,
            _ => {
                import.lost(
                    directive,
                    &format!("the parameter {name} has no counterpart"),
                );
                continue;
            }
        };
        keys.insert(key.to_owned(), value);
    }
    Value::Table(keys)
}

/// What keeps clients with their backend by `hash` or `sticky`.
fn stickiness(directive: &Directive, import: &Import<'_>) -> Option<Value> {
    let key = directive.arg(0);
    match (directive.name.as_str(), key) {
        ("sticky", "cookie") => Some(cookie(directive, import)),
        ("hash", "$remote_addr" | "$binary_remote_addr" | "${remote_addr}") => None,
        ("hash", key) if key.starts_with("$http_") => {
            let name = key.trim_start_matches("$http_").replace('_', "-");
            Some(table([("header", name.into())]))
        }
        ("hash", key) if key.starts_with("$arg_") => {
            let name = key.trim_start_matches("$arg_").to_owned();
            Some(table([("query", name.into())]))
        }
        _ => {
            import.lost(
                directive,
                "clients stay with a backend by address, cookie, header or query; the address is taken",
            );
            None
        }
    }
}
