//! Servers of a backend, their health checks, and what keeps clients with one of them.

use toml::Value;

use super::tree::{Line, Section};
use super::{Import, first, values};
use crate::document::{Part, table};
use crate::report::Origin;

/// A backend as the keys of a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backend {
    pub(super) origin: Origin,
    pub(super) list: Vec<Value>,
    pub(super) stickiness: Option<Value>,
    /// Keys of `[service.health]`, if servers are checked.
    pub(super) health: Option<toml::Table>,
    pub(super) proxy_protocol: Option<&'static str>,
}

/// The backend of `section`; `None` where no server is left.
pub(super) fn read(section: &Section, lines: &[&Line], import: &Import<'_>) -> Option<Backend> {
    section.heading.take();
    let mut backend = Backend {
        origin: section.heading.origin.clone(),
        list: Vec::new(),
        stickiness: checked_stickiness(lines, import),
        health: None,
        proxy_protocol: None,
    };
    let shared = first(lines, "default-server");
    let shared = shared.map_or(&[][..], |line| line.words.get(1..).unwrap_or_default());
    let mut options = Options::default();
    for line in lines.iter().filter(|line| line.is("server")) {
        if let Some(server) = server(line, shared, &mut options, import) {
            backend.list.push(server);
        }
    }
    backend.proxy_protocol = options.proxy_protocol;
    if options.is_checked {
        backend.health = Some(health(lines, options.health, import));
    }
    (!backend.list.is_empty()).then_some(backend)
}

/// What servers of a backend have alike.
#[derive(Default)]
struct Options {
    is_checked: bool,
    health: toml::Table,
    proxy_protocol: Option<&'static str>,
}

fn server(
    line: &Line,
    shared: &[String],
    options: &mut Options,
    import: &Import<'_>,
) -> Option<Value> {
    line.take();
    let Some(address) = values::server(line.word(2)) else {
        import.lost(
            line,
            "a backend is an address with a port; write that of the name into `backends`",
        );
        return None;
    };
    let mut weight = None;
    let own = line.words.get(3..).unwrap_or_default();
    for words in [shared, own] {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().map_or("", String::as_str);
            match word.as_str() {
                "check" => options.is_checked = true,
                "weight" => weight = value().parse::<i64>().ok(),
                "inter" => put(
                    &mut options.health,
                    "interval",
                    values::time(value()).map(Value::from),
                ),
                "rise" => put(
                    &mut options.health,
                    "rise",
                    value().parse::<i64>().ok().map(Value::from),
                ),
                "fall" => put(
                    &mut options.health,
                    "fall",
                    value().parse::<i64>().ok().map(Value::from),
                ),
                "slowstart" => put(
                    &mut options.health,
                    "slow_start",
                    values::time(value()).map(Value::from),
                ),
                "port" => put(
                    &mut options.health,
                    "port",
                    value().parse::<i64>().ok().map(Value::from),
                ),
                "send-proxy" => options.proxy_protocol = Some("v1"),
                "send-proxy-v2" => options.proxy_protocol = Some("v2"),
                // The cookie has a code of lb-agent's own.
                "cookie" | "id" => drop(value()),
                "disabled" => {
                    import.differs(
                        line,
                        "left out, as it is disabled; `lb-agent add-backend` adds it",
                    );
                    return None;
                }
                "backup" => {
                    import.lost(line, "there are no backup servers; `lb-agent add-backend` adds it when it is wanted");
                    return None;
                }
                "ssl" => {
                    import.lost(
                        line,
                        "connections to backends have no TLS; give the backend a plain port",
                    );
                    return None;
                }
                other => {
                    let has_value = [
                        "maxconn",
                        "maxqueue",
                        "verify",
                        "resolvers",
                        "on-marked-down",
                        "observe",
                    ];
                    if has_value.contains(&other) {
                        value();
                    }
                    import.lost(line, &format!("the parameter {other} has no counterpart"));
                }
            }
        }
    }
    Some(match weight {
        Some(0) => {
            import.differs(
                line,
                "left out, as its weight is 0; `lb-agent add-backend` adds it",
            );
            return None;
        }
        Some(weight) if weight != 1 => {
            table([("address", address.into()), ("weight", weight.into())])
        }
        _ => address.into(),
    })
}

fn put(table: &mut toml::Table, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        table.entry(key.to_owned()).or_insert(value);
    }
}

/// `[service.health]` by `option httpchk` and `http-check`.
fn health(lines: &[&Line], mut keys: toml::Table, import: &Import<'_>) -> toml::Table {
    if let Some(time) = first(lines, "timeout check") {
        put(
            &mut keys,
            "timeout",
            values::time(time.word(2)).map(Value::from),
        );
    }
    let Some(check) = first(lines, "option httpchk") else {
        put(&mut keys, "type", Some("tcp".into()));
        return keys;
    };
    put(&mut keys, "type", Some("http".into()));
    match (check.word(2), check.word(3)) {
        ("", _) => {}
        (path, "") => put(&mut keys, "path", Some(path.into())),
        (method, path) => {
            put(&mut keys, "method", Some(method.into()));
            put(&mut keys, "path", Some(path.into()));
        }
    }
    if check.words.len() > 5 {
        import.lost(
            check,
            "headers in the version of a check; `host` and `headers` of [service.health] have them",
        );
    }
    for line in lines.iter().filter(|line| line.is("http-check")) {
        check_rule(line, &mut keys, import);
    }
    keys
}

fn check_rule(line: &Line, keys: &mut toml::Table, import: &Import<'_>) {
    let words: Vec<&str> = line.words.iter().skip(1).map(String::as_str).collect();
    line.take();
    match words.as_slice() {
        ["expect", "status", codes] => put(keys, "status", Some((*codes).into())),
        ["expect", "string", text] => put(keys, "body", Some((*text).into())),
        ["send", rest @ ..] => {
            let mut rest = rest.iter();
            while let Some(word) = rest.next() {
                let value = rest.next().copied().unwrap_or_default();
                match *word {
                    "meth" => put(keys, "method", Some(value.into())),
                    "uri" => put(keys, "path", Some(value.into())),
                    "ver" => {}
                    "hdr" => {
                        let text = rest.next().copied().unwrap_or_default();
                        if value.eq_ignore_ascii_case("host") {
                            put(keys, "host", Some(text.into()));
                        } else {
                            let headers = keys
                                .entry("headers")
                                .or_insert(Value::Table(toml::Table::new()));
                            if let Value::Table(headers) = headers {
                                headers.insert(value.to_owned(), text.into());
                            }
                        }
                    }
                    other => import.lost(line, &format!("{other} of a check has no counterpart")),
                }
            }
        }
        _ => import.lost(
            line,
            "status, text, method, path and headers of a check have keys",
        ),
    }
}

/// The value of `stickiness`, if it is not the address. A name that it does not take is lost.
fn checked_stickiness(lines: &[&Line], import: &Import<'_>) -> Option<Value> {
    let found = stickiness(lines, import)?;
    if crate::is_taken(&format!("[service.http]\nstickiness = {found}")) {
        return Some(found);
    }
    let from = ["cookie", "balance"];
    if let Some(line) = from.iter().find_map(|words| first(lines, words)) {
        import.lost(
            line,
            "its name is none of a cookie, a header or a query; the address is taken",
        );
    }
    None
}

/// The value of `stickiness`, if it is not the address.
fn stickiness(lines: &[&Line], import: &Import<'_>) -> Option<Value> {
    if let Some(cookie) = first(lines, "cookie") {
        if let Some(balance) = first(lines, "balance") {
            import.differs(balance, "new browsers go by weight");
        }
        return of_cookie(cookie, import);
    }
    let balance = lines.iter().find(|line| line.is("balance"))?;
    let key = |words: &str| {
        let key = words.split_once('(')?.1.strip_suffix(')')?;
        Some(key.to_owned())
    };
    match balance.word(1) {
        "source" => import.needless(balance, "it is the default"),
        "roundrobin" | "static-rr" if lines.iter().any(|line| line.is("stick on src")) => {
            import.needless(balance, "clients stay with one backend, as by the stick-table");
        }
        "roundrobin" | "static-rr" => import.differs(
            balance,
            "clients stay with one backend, where HAProxy goes round robin; see docs/stickiness.md",
        ),
        "leastconn" => import.differs(
            balance,
            "clients stay with one backend; `max_load = 1.25` in the service bounds the load of a backend",
        ),
        "url_param" => {
            balance.take();
            return Some(table([("query", balance.word(2).into())]));
        }
        header if header.starts_with("hdr(") => {
            balance.take();
            return Some(table([("header", key(header)?.into())]));
        }
        _ => import.lost(balance, "clients go by address, cookie, header or query; the address is taken"),
    }
    None
}

fn of_cookie(line: &Line, import: &Import<'_>) -> Option<Value> {
    let words: Vec<&str> = line.words.iter().skip(2).map(String::as_str).collect();
    if !words.contains(&"insert") {
        import.lost(
            line,
            "a cookie is lb-agent's own (insert); cookies of applications are not changed",
        );
        return None;
    }
    let mut keys = toml::Table::new();
    keys.insert("cookie".to_owned(), line.word(1).into());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word {
            "insert" | "indirect" | "nocache" | "httponly" | "preserve" | "dynamic" => {}
            "secure" => drop(keys.insert("secure".to_owned(), true.into())),
            "domain" => put(
                &mut keys,
                "domain",
                words.next().map(|name| name.trim_start_matches('.').into()),
            ),
            "maxlife" => {
                put(
                    &mut keys,
                    "max_age",
                    words.next().and_then(values::time).map(Value::from),
                );
            }
            "maxidle" => {
                words.next();
                import.differs(
                    line,
                    "a cookie has no maxidle; `max_age` counts from its beginning",
                );
            }
            "attr" => match words.next().and_then(|attr| attr.strip_prefix("SameSite=")) {
                Some(site) => {
                    drop(keys.insert("same_site".to_owned(), site.to_ascii_lowercase().into()))
                }
                None => import.lost(line, "this attribute of a cookie has no key"),
            },
            other => import.lost(line, &format!("{other} of a cookie has no counterpart")),
        }
    }
    Some(Value::Table(keys))
}

impl Backend {
    /// `[service.health]`.
    pub(super) fn health(&self) -> Option<Part> {
        let keys = self.health.as_ref()?;
        let mut part = Part::new("[service.health]", None);
        for name in [
            "type",
            "method",
            "path",
            "host",
            "headers",
            "status",
            "body",
            "port",
            "interval",
            "timeout",
            "rise",
            "fall",
            "slow_start",
        ] {
            if let Some(value) = keys.get(name) {
                part.set(name, value.clone(), None);
            }
        }
        Some(part)
    }
}
