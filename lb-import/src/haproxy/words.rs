//! Lines that need no key, and reasons for those without a counterpart.

use super::Import;
use super::tree::{Line, Section};

/// First words of lines, and why nothing is needed for them.
const NEEDLESS: &[(&[&str], &str)] = &[
    (
        &[
            "user",
            "group",
            "chroot",
            "daemon",
            "pidfile",
            "nbthread",
            "nbproc",
            "cpu-map",
            "ulimit-n",
            "master-worker",
        ],
        "lb-agent manages its own processes",
    ),
    (
        &[
            "ca-base",
            "crt-base",
            "ssl-default-bind-ciphers",
            "ssl-default-bind-ciphersuites",
            "ssl-default-bind-options",
            "ssl-default-server-ciphers",
            "ssl-default-server-ciphersuites",
            "ssl-default-server-options",
            "ssl-dh-param-file",
            "tune.ssl.default-dh-param",
        ],
        "TLS has the parameters of rustls, which are safe ones",
    ),
    (
        &[
            "option forwardfor",
            "option http-server-close",
            "option http-keep-alive",
            "option httpclose",
            "option dontlognull",
            "option redispatch",
            "option tcpka",
            "option http-use-htx",
            "option splice-auto",
            "retries",
            "retry-on",
            "timeout queue",
            "stick-table",
            "stick on src",
            "mode",
            "option tcp-check",
        ],
        "it is the default",
    ),
    (
        &[
            "log",
            "log-format",
            "log-tag",
            "option httplog",
            "option tcplog",
            "option log-health-checks",
            "option dontlog-normal",
            "option logasap",
            "option log-separate-errors",
        ],
        "the agent logs to the journal; `access_log` of [service.http] has a line for each request",
    ),
    (&["description", "id"], "it is a remark"),
];

/// First words of lines, and why they are lost.
const LOST: &[(&[&str], &str)] = &[
    (
        &["stats"],
        "\"lb-agent status\" and `metrics` under [agent] have these figures",
    ),
    (
        &["http-request", "http-response", "http-after-response"],
        "this action, or its condition, has no counterpart",
    ),
    (
        &["tcp-request", "tcp-response"],
        "the first bytes of connections are not looked at",
    ),
    (
        &["stick"],
        "clients are remembered by address, cookie or session",
    ),
    (
        &["errorfile", "errorloc", "http-error"],
        "pages are plain HTML in `errors.pages` of [service.http]",
    ),
    (
        &["use-server", "fullconn", "http-reuse", "dispatch"],
        "it has no key",
    ),
    (&["acl"], "no line that was translated uses it"),
    (
        &["capture", "unique-id-format", "unique-id-header"],
        "the access log has a format of its own",
    ),
    (
        &["lua-load", "lua-load-per-thread", "filter"],
        "there are no programs inside",
    ),
];

/// Reports each line that no rule has taken.
pub(super) fn sweep(sections: &[Section], import: &Import<'_>) {
    for section in sections {
        match section.kind() {
            "global" | "defaults" | "frontend" | "listen" => {}
            "backend" if section.heading.is_taken() => {}
            "backend" => {
                import.needless(&section.heading, "nothing sends requests to it");
                continue;
            }
            _ => {
                import.lost(&section.heading, "such sections have no counterpart");
                continue;
            }
        }
        for line in section.lines.iter().filter(|line| !line.is_taken()) {
            of_one(line, section, import);
        }
    }
}

fn of_one(line: &Line, section: &Section, import: &Import<'_>) {
    let has = |words: &&str| line.is(words);
    if let Some((_, why)) = NEEDLESS.iter().find(|(all, _)| all.iter().any(&has)) {
        return import.needless(line, why);
    }
    if section.kind() == "global" && line.is("tune.") {
        return import.needless(line, "nothing has to be tuned for it");
    }
    let of_defaults = [
        "timeout",
        "default-server",
        "option httpchk",
        "http-check",
        "maxconn",
        "balance",
        "compression",
        "errorfile",
    ];
    if section.kind() == "defaults" && of_defaults.iter().any(has) && !line.is("errorfile") {
        return import.needless(line, "no section takes it over");
    }
    let known = LOST.iter().find(|(all, _)| all.iter().any(&has));
    import.lost(
        line,
        known.map_or("no counterpart is known", |(_, why)| *why),
    );
}
