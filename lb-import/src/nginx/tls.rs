//! `[service.tls]`.

use toml::Value;

use super::Import;
use super::group::Group;
use super::server::{self, Server};
use crate::document::{Part, texts};

/// The part of a group that listens for HTTPS.
pub(super) fn part(group: &Group<'_, '_>, redirects: bool, import: &Import<'_>) -> Option<Part> {
    if group.tls.is_empty() {
        return None;
    }
    for server in &group.servers {
        if let Some(directive) = server.scope.here("ssl_reject_handshake") {
            import.differs(
                directive,
                "names without a server get its answer, with the first certificate",
            );
        }
    }
    let mut part = Part::new("[service.tls]", None);
    let listens = group.tls.iter().map(|listen| listen.address.to_string());
    part.set("listen", texts(listens), None);
    part.set(
        "certificates",
        Value::Array(server::certificates(&group.servers, import)),
        None,
    );
    let scope = &group.lead().scope;
    if let Some(protocols) = scope.one("ssl_protocols") {
        let has = |version: &str| protocols.args.iter().any(|arg| arg == version);
        if !has("TLSv1.2") && has("TLSv1.3") {
            part.set("min_version", "1.3", Some(&protocols.origin));
        }
        if has("TLSv1.2") && has("TLSv1.3") {
            import.needless(protocols, "it is the default");
        }
        if has("TLSv1") || has("TLSv1.1") {
            import.differs(protocols, "TLS 1.0 and 1.1 are not spoken");
        }
    }
    if !http2(group) {
        part.set("http2", false, None);
    }
    if redirects {
        part.set("redirect_http", true, None);
    }
    client_certificates(group, &mut part, import);
    Some(part)
}

/// Whether some server of the group offers HTTP/2.
fn http2(group: &Group<'_, '_>) -> bool {
    let offered = group.servers.iter().map(|server| {
        let in_listen = server
            .scope
            .own()
            .iter()
            .any(|one| one.name == "listen" && one.args.iter().any(|arg| arg == "http2"));
        server.scope.flag("http2", false) || in_listen
    });
    // Each is asked, so that each directive counts as carried over.
    offered.fold(false, |any, one| any | one)
}

/// `client_ca` and its like. They are for the names whose servers ask.
fn client_certificates(group: &Group<'_, '_>, part: &mut Part, import: &Import<'_>) {
    let asks = |server: &&&Server<'_>| {
        let verify = server.scope.one("ssl_verify_client");
        verify.is_some_and(|verify| verify.arg(0) != "off")
    };
    let asking: Vec<&&Server<'_>> = group.servers.iter().filter(asks).collect();
    // The strictest of them holds for all.
    let requires = |server: &&&&Server<'_>| {
        let verify = server.scope.one("ssl_verify_client");
        verify.is_some_and(|verify| verify.arg(0) == "on")
    };
    let Some(first) = asking.iter().find(requires).or(asking.first()) else {
        return;
    };
    let Some(verify) = first.scope.one("ssl_verify_client") else {
        return;
    };
    let Some(ca) = first.scope.one("ssl_client_certificate") else {
        import.lost(
            verify,
            "ssl_client_certificate is not there, so no certificate is asked for: it is OPEN now",
        );
        return;
    };
    part.set("client_ca", import.file(ca.arg(0)), Some(&ca.origin));
    match verify.arg(0) {
        "on" => part.set("client_certificates", "require", Some(&verify.origin)),
        "optional" => part.set("client_certificates", "optional", Some(&verify.origin)),
        _ => {
            import.differs(verify, "certificates of other authorities are refused");
            part.set("client_certificates", "optional", Some(&verify.origin));
        }
    }
    if let Some(crl) = first.scope.one("ssl_crl") {
        part.set("crl", import.file(crl.arg(0)), Some(&crl.origin));
    }
    if asking.len() < group.servers.len() {
        let takes_others = |server: &&&Server<'_>| {
            std::ptr::eq(**server, group.servers[0]) || server.names.is_empty()
        };
        if asking.iter().any(takes_others) {
            // Names that no server has come to the first one, and have to bring a certificate too.
            import.differs(
                verify,
                "all names of the service have to bring certificates",
            );
        } else {
            let hosts = asking.iter().flat_map(|server| server.names.clone());
            part.set("client_hosts", texts(hosts), None);
        }
    }
    let others = asking
        .iter()
        .filter(|other| !std::ptr::eq(***other, **first));
    for other in others {
        for name in ["ssl_verify_client", "ssl_client_certificate", "ssl_crl"] {
            let (own, others) = (first.scope.one(name), other.scope.one(name));
            if let Some(directive) = others.filter(|one| own.is_none_or(|own| own.args != one.args))
            {
                let reason = format!(
                    "a service has one, that of {}; certificates that it takes are good for this name too",
                    first.directive.origin
                );
                import.lost(directive, &reason);
            }
        }
    }
}
