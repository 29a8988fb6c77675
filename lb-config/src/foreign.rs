//! Words of nginx, HAProxy and Caddy, and the way to write them here. Messages about unknown keys, unknown variables
//! and whole files in another language take their remedies from these tables.

/// What to write in place of a directive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instead {
    /// A key in TOML, with the heading of its table.
    Key(&'static str, &'static str),
    /// Nothing, as lb-agent does it by itself.
    Nothing,
    /// The translation of directives in docs/guides/nginx.md.
    Page,
}

use Instead::{Key, Nothing, Page};

/// Directives, their program, and what to write instead.
type Words = (&'static [&'static str], &'static str, Instead);

const SERVICE: &str = "[[service]]";
const ROUTE: &str = "[[service.route]]";
const HTTP: &str = "[service.http]";
const TLS: &str = "[service.tls]";
const LIMITS: &str = "[service.http.limits]";
const TIMEOUTS: &str = "[service.http.timeouts]";
const BACKENDS: Instead = Key(SERVICE, "backends = [\"127.0.0.1:5000\"]");
const CERTIFICATES: &str = "certificates = [{ certificate = \"/etc/lb-agent/fullchain.pem\", key = \
                            \"/etc/lb-agent/privkey.pem\" }]";

#[rustfmt::skip]
const WORDS: &[Words] = &[
    (&["proxy_pass", "upstream"], "nginx", BACKENDS),
    (&["server"], "nginx and HAProxy", BACKENDS),
    (&["backend"], "HAProxy", BACKENDS),
    (&["reverse_proxy"], "Caddy", BACKENDS),
    (&["grpc_pass"], "nginx", Key(HTTP, "protocol = \"h2c\"")),
    (&["server_name"], "nginx", Key(ROUTE, "host = \"example.com\"")),
    (&["location"], "nginx", Key(ROUTE, "path = \"/api\"")),
    (&["acl", "use_backend", "default_backend"], "HAProxy", Key(ROUTE, "path = \"/api\"")),
    (&["return"], "nginx", Key(ROUTE, "redirect = \"https://example.com$uri\"")),
    (&["frontend", "bind"], "HAProxy", Key(SERVICE, "listen = [\"0.0.0.0:80\", \"[::]:80\"]")),
    (&["stream"], "nginx", Key(SERVICE, "mode = \"tcp\"")),
    (&["least_conn"], "nginx", Key(SERVICE, "max_load = 1.25")),
    (&["balance"], "HAProxy", Key(SERVICE, "max_load = 1.25")),
    (&["maxconn"], "HAProxy", Key(SERVICE, "max_connections = 10000")),
    (&["limit_conn"], "nginx", Key(SERVICE, "max_connections = 10000")),
    (&["auth_basic", "auth_basic_user_file"], "nginx", Key(ROUTE, "auth = { users = \"/etc/lb-agent/users\" }")),
    (&["auth_request"], "nginx", Key(ROUTE, "auth = { url = \"http://127.0.0.1:4180/auth\" }")),
    (&["limit_req", "limit_req_zone"], "nginx", Key("[[service.limit]]", "rate = \"10/1m\"")),
    (&["sticky"], "nginx", Key(HTTP, "stickiness = { cookie = \"lb\" }")),
    (&["health_check"], "nginx", Key("[service.health]", "path = \"/healthz\"")),
    (&["option", "httpchk", "check"], "HAProxy", Key("[service.health]", "path = \"/healthz\"")),
    (&["client_max_body_size"], "nginx", Key(LIMITS, "body = \"10MiB\"")),
    (&["large_client_header_buffers", "client_header_buffer_size"], "nginx", Key(LIMITS, "header_bytes = 16384")),
    (&["proxy_read_timeout"], "nginx", Key(TIMEOUTS, "first_byte = \"60s\"")),
    (&["proxy_connect_timeout"], "nginx", Key(TIMEOUTS, "connect = \"5s\"")),
    (&["client_header_timeout"], "nginx", Key(TIMEOUTS, "header = \"60s\"")),
    (&["client_body_timeout"], "nginx", Key(TIMEOUTS, "body = \"60s\"")),
    (&["send_timeout"], "nginx", Key(TIMEOUTS, "send = \"60s\"")),
    (&["keepalive_timeout"], "nginx", Key(TIMEOUTS, "idle = \"75s\"")),
    (&["gzip", "brotli"], "nginx", Key("[service.http.compression]", "enabled = true")),
    (&["gzip_types"], "nginx", Key("[service.http.compression]", "types = [\"text/*\"]")),
    (&["gzip_min_length"], "nginx", Key("[service.http.compression]", "min_size = 1024")),
    (&["ssl_certificate", "ssl_certificate_key"], "nginx", Key(TLS, CERTIFICATES)),
    (&["ssl"], "nginx and HAProxy", Key(TLS, CERTIFICATES)),
    (&["crt"], "HAProxy", Key(TLS, CERTIFICATES)),
    (&["ssl_client_certificate", "ssl_trusted_certificate"], "nginx", Key(TLS, "client_ca = \"/etc/lb-agent/ca.pem\"")),
    (&["ssl_verify_client"], "nginx", Key(TLS, "client_certificates = \"require\"")),
    (&["ssl_crl"], "nginx", Key(TLS, "crl = \"/etc/lb-agent/ca.crl\"")),
    (&["ssl_protocols"], "nginx", Key(TLS, "min_version = \"1.3\"")),
    (&["set_real_ip_from", "real_ip_header"], "nginx", Key(HTTP, "trusted_proxies = [\"10.0.0.0/8\"]")),
    (&["proxy_set_header"], "nginx", Key(HTTP, "request_headers = [{ set = \"X-Client\", value = \"$client_ip\" }]")),
    (&["add_header"], "nginx", Key(HTTP, "response_headers = [{ set = \"X-Frame-Options\", value = \"DENY\" }]")),
    (&["proxy_next_upstream"], "nginx", Key("[service.http.upstream]", "retries = 1")),
    (&["error_page"], "nginx", Key("[service.http.errors]", "pages = { 502 = \"/etc/lb-agent/502.html\" }")),
    (&["log_format"], "nginx", Key(HTTP, "access_log = { file = \"stdout\", format = \"json\" }")),
    (&["stub_status"], "nginx", Key("[agent]", "metrics = \"127.0.0.1:9600\"")),
    (&["stats"], "HAProxy", Key("[agent]", "metrics = \"127.0.0.1:9600\"")),
    (&["worker_processes"], "nginx", Key("[agent]", "l7_workers = 0")),
    (&["worker_connections"], "nginx", Key("[agent]", "max_connections = 10000")),
    (&["ip_hash", "hash", "events", "proxy_http_version", "proxy_buffering", "tcp_nodelay", "sendfile"], "nginx", Nothing),
    (&["forwardfor", "stick-table", "stick", "global", "defaults"], "HAProxy", Nothing),
    (&["root", "alias", "autoindex", "gzip_static"], "nginx", Key(ROUTE, "files = \"/srv/www\"")),
    (&["try_files"], "nginx", Key(ROUTE, "files = { root = \"/srv/www\", try = [\"$path\", \"/index.html\"] }")),
    (&["file_server"], "Caddy", Key(ROUTE, "files = \"/srv/www\"")),
    (&["proxy_cache"], "nginx", Key(HTTP, "cache = {}")),
    (&["proxy_cache_key"], "nginx", Key("[service.http.cache]", "key = { query = [\"page\"] }")),
    (&["rewrite", "allow", "deny"], "nginx", Page),
];

/// Values of other programs by our key, and a remedy.
const VALUES: &[(&str, &[&str], &str)] = &[
    (
        "mode",
        &["https", "ssl", "tls"],
        "HTTPS is mode = \"http\" with [service.tls]",
    ),
    (
        "mode",
        &["ws", "wss", "websocket"],
        "WebSockets take \"tcp\" or \"http\" without a key",
    ),
    (
        "mode",
        &["grpc", "h2", "h2c"],
        "gRPC is mode = \"http\" with protocol = \"h2c\" under [service.http]",
    ),
    ("mode", &["stream"], "stream of nginx is \"tcp\" or \"udp\""),
    (
        "stickiness",
        &["ip_hash", "source", "ip"],
        "ip_hash of nginx and source of HAProxy are \"address\"",
    ),
    ("stickiness", &["cookie"], "a cookie has a name"),
];

/// Variables of nginx, and ours.
const VARIABLES: &[(&str, &str)] = &[
    ("request_uri", "uri"),
    ("document_uri", "path"),
    ("args", "query"),
    ("query_string", "query"),
    ("request_method", "method"),
    ("remote_addr", "client_ip"),
    ("binary_remote_addr", "client_ip"),
    ("realip_remote_addr", "client_ip"),
    ("proxy_protocol_addr", "client_ip"),
    ("proxy_add_x_forwarded_for", "client_ip"),
    ("http_host", "host"),
    ("server_name", "hostname"),
    ("upstream_addr", "backend"),
    ("proxy_host", "service"),
    ("ssl_client_verify", "client_cert_verify"),
    ("ssl_client_s_dn", "client_cert_subject"),
    ("ssl_client_i_dn", "client_cert_issuer"),
    ("ssl_client_serial", "client_cert_serial"),
    ("ssl_client_fingerprint", "client_cert_fingerprint"),
    ("ssl_client_escaped_cert", "client_cert"),
];

/// What to write instead of `word`, if another program has a directive of that name.
pub(super) fn key(word: &str) -> Option<String> {
    let (_, program, instead) = WORDS.iter().find(|(words, ..)| words.contains(&word))?;
    Some(match instead {
        Key(heading, toml) => format!("for {word} of {program} write {toml} under {heading}"),
        Nothing => format!("leave it out: what {word} of {program} is for needs no key"),
        Page => format!("for {word} of {program} see docs/guides/nginx.md"),
    })
}

/// A remedy for the value `text` of our `key`, if other programs have it.
fn value(key: &str, text: &str) -> Option<&'static str> {
    let mut values = VALUES.iter();
    let found = values.find(|(ours, texts, _)| *ours == key && texts.contains(&text));
    found.map(|(.., remedy)| *remedy)
}

/// `choices` as a remedy for the value `text` of our `key`, with more if other programs have it.
pub(super) fn instead_of_value(key: &str, text: &str, choices: &str) -> String {
    match value(key, text) {
        Some(remedy) => format!("use {choices}; {remedy}"),
        None => format!("use {choices}"),
    }
}

/// Our variable for one of nginx, both without the dollar sign.
pub(super) fn variable(name: &str) -> Option<&'static str> {
    let found = VARIABLES.iter().find(|(foreign, _)| *foreign == name);
    found.map(|(_, ours)| *ours)
}

/// The line of `text`, from 0, that shows it to be in the language of another program, and a message about that.
pub(super) fn whole_file(text: &str) -> Option<(usize, String)> {
    let mut lines = text.lines().map(str::trim).enumerate();
    let (number, line) = lines.find(|(_, line)| !line.is_empty() && !line.starts_with('#'))?;
    let program = program_of(line, text)?;
    let translation = match program {
        "nginx" => "\"lb-agent import nginx FILE\" translates a file",
        "HAProxy" => "\"lb-agent import haproxy FILE\" translates a file",
        _ => "docs/guides/nginx.md translates directives",
    };
    let message = format!(
        "this is a configuration of {program}, and that of lb-agent is TOML (write [[service]] and below it name = \
         \"web\", listen = [\"0.0.0.0:80\"], backends = [\"127.0.0.1:5000\"], a line each; {translation})"
    );
    Some((number, message))
}

/// The program whose configuration `text` is, by its first significant `line`.
fn program_of(line: &str, text: &str) -> Option<&'static str> {
    const NGINX: [&str; 5] = ["server", "http", "upstream", "events", "stream"];
    const HAPROXY: [&str; 5] = ["global", "defaults", "frontend", "backend", "listen"];
    let word = line.split_whitespace().next()?;
    if line.starts_with(['[', '{', '"', '\'']) || line.contains('=') {
        None
    } else if line.contains('{') || line.ends_with(';') || NGINX.contains(&line) {
        let is_caddy = text.contains("reverse_proxy");
        Some(if is_caddy { "Caddy" } else { "nginx" })
    } else if HAPROXY.contains(&word) {
        Some("HAProxy")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Template, Variable};
    use crate::{FilePath, parse};

    const SERVICE_TEXT: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80', '[::]:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n";

    /// A configuration with `toml` under `heading`.
    fn with(heading: &str, toml: &str) -> String {
        let key = toml.split(' ').next().unwrap();
        match heading {
            SERVICE => {
                let others = SERVICE_TEXT.lines().filter(|line| !line.starts_with(key));
                let mut lines: Vec<&str> = others.collect();
                lines.push(toml);
                lines.join("\n")
            }
            ROUTE if !["redirect", "files"].contains(&key) => {
                format!("{SERVICE_TEXT}{heading}\n{toml}\nname = 'r'\nbackends = ['127.0.0.1:2']")
            }
            TLS if key != "certificates" => {
                let client_ca = match key {
                    "client_ca" => "redirect_http = true",
                    _ => "redirect_http = true\nclient_ca = '/ca.pem'",
                };
                format!(
                    "{SERVICE_TEXT}{heading}\nlisten = ['0.0.0.0:443']\n{CERTIFICATES}\n{client_ca}\n{toml}"
                )
            }
            TLS => format!("{SERVICE_TEXT}{heading}\nlisten = ['0.0.0.0:443']\n{toml}"),
            _ => format!("{SERVICE_TEXT}{heading}\n{toml}"),
        }
    }

    #[test]
    fn every_proposed_key_is_one_of_the_configuration() {
        for (words, _, instead) in WORDS {
            if let Key(heading, toml) = instead {
                let text = with(heading, toml);
                if let Err(error) = parse(&text, FilePath::new("f")) {
                    panic!("{words:?}: {error}\n{text}");
                }
            }
        }
    }

    #[test]
    fn directives_without_a_key_are_on_the_page() {
        let page = include_str!("../../docs/guides/nginx.md").to_owned()
            + include_str!("../../docs/guides/nginx-jobs.md");
        for (words, _, instead) in WORDS {
            if matches!(instead, Page) {
                for word in *words {
                    assert!(page.contains(&format!("`{word}`")), "{word}");
                }
            }
        }
    }

    #[test]
    fn every_proposed_variable_is_one_of_ours_and_no_other_is_renamed() {
        for (foreign, ours) in VARIABLES {
            Template::parse(&format!("${ours}")).unwrap();
            let told = Template::parse(&format!("${foreign}")).unwrap_err();
            assert!(told.to_string().contains(&format!("${ours}")), "{told}");
            assert!(Variable::ALL.iter().all(|known| known.name() != *foreign));
        }
    }

    #[test]
    fn value_of_another_program_is_translated() {
        let told = |line: &str| {
            let text = SERVICE_TEXT.replace("mode = 'http'", line);
            parse(&text, FilePath::new("f")).unwrap_err().to_string()
        };
        let https = told("mode = 'https'");
        let expected =
            "(use \"tcp\", \"udp\" or \"http\"; HTTPS is mode = \"http\" with [service.tls])";
        assert!(https.contains(expected), "{https}");
        let hash = told("mode = 'http'\nhttp.stickiness = 'ip_hash'");
        assert!(
            hash.contains("; ip_hash of nginx and source of HAProxy are \"address\")"),
            "{hash}"
        );
        let other = told("mode = 'sctp'");
        assert!(
            other.ends_with("(use \"tcp\", \"udp\" or \"http\")"),
            "{other}"
        );
    }

    #[test]
    fn no_word_is_there_twice() {
        let all: Vec<&str> = WORDS
            .iter()
            .flat_map(|(words, ..)| *words)
            .copied()
            .collect();
        let unique: std::collections::BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len());
    }

    #[test]
    fn file_of_another_program_gets_one_line() {
        for (text, line, program) in [
            ("# site\nserver {\n  listen 80;\n}\n", 2, "nginx"),
            ("user www-data;\nworker_processes auto;\n", 1, "nginx"),
            ("\nserver\n{\n  listen 80;\n}\n", 2, "nginx"),
            (
                "global\n  maxconn 100\nfrontend web\n  bind :80\n",
                1,
                "HAProxy",
            ),
            ("frontend web\n  bind *:80\n", 1, "HAProxy"),
            (
                "example.com {\n  reverse_proxy 127.0.0.1:5000\n}\n",
                1,
                "Caddy",
            ),
        ] {
            let error = parse(text, FilePath::new("f")).unwrap_err().to_string();
            let expected = format!("f:{line}: this is a configuration of {program}, ");
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        for text in ["[agent]\nserver {", "a = {\n", "name\n", "\"a\" {", "{"] {
            let error = parse(text, FilePath::new("f")).unwrap_err().to_string();
            assert!(!error.contains("this is a configuration of"), "{error}");
        }
    }
}
