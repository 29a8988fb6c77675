//! The files of the page, which are part of the program, and the headers of every answer.

use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// A file of the page.
pub(super) struct Asset {
    path: &'static str,
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset {
        path: "/",
        kind: "text/html; charset=utf-8",
        text: include_str!("page.html"),
    },
    Asset {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("page.css"),
    },
    Asset {
        path: "/page.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page.js"),
    },
];

/// The file at `path`.
pub(super) fn at(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// Scripts and styles of the page alone, no inline ones, and connections to it alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Gives a response its type, and the headers that all of them have.
pub(super) fn finish<B>(response: &mut Response<B>, kind: &'static str) {
    let headers: [(HeaderName, &'static str); 8] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_small_and_has_nothing_inline_and_nothing_of_others() {
        let size: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(size <= 30 << 10, "{size} bytes");
        let html = at("/").unwrap().text;
        for forbidden in [
            "<style",
            " style=",
            "onclick=",
            "onload=",
            "javascript:",
            "//",
        ] {
            let text = html
                .replace("<!doctype", "")
                .replace("http://www.w3.org", "");
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        let scripts: Vec<&str> = html.split("<script").skip(1).collect();
        assert_eq!(scripts.len(), 1);
        assert!(scripts[0].starts_with(" src=\"page.js\""), "{}", scripts[0]);
        let script = at("/page.js").unwrap().text;
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "document.write",
        ] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
        assert!(at("/page.json").is_none());
    }
}
