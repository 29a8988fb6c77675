//! The collector of spans: `[agent] otlp`.

use std::fmt;

use super::BackendAddress;
use super::http::{AuthUrl, http_url};
use super::value::{BadValue, quoted};

/// An example of the URL.
pub(super) const EXAMPLE: &str = "\"http://127.0.0.1:4318\"";

/// The base URL of a collector that speaks OTLP/HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpUrl(AuthUrl);

impl OtlpUrl {
    /// The address of the collector.
    pub const fn address(&self) -> &BackendAddress {
        &self.0.address
    }

    /// The host for requests to it.
    pub fn host(&self) -> String {
        match self.address() {
            BackendAddress::Ip(address) => address.to_string(),
            BackendAddress::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The path that takes spans, as exporters of OpenTelemetry make it of a base URL.
    pub fn traces(&self) -> String {
        format!("{}/v1/traces", self.0.target.trim_end_matches('/'))
    }
}

impl fmt::Display for OtlpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) fn url(text: &str) -> Result<OtlpUrl, BadValue> {
    let url = http_url(text, EXAMPLE)?;
    if url.target.contains('?') {
        return Err(BadValue {
            problem: format!("{} has a query", quoted(text)),
            remedy: format!("write it like {EXAMPLE}"),
        });
    }
    Ok(OtlpUrl(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_spans_is_below_the_url() {
        for (text, host, traces) in [
            ("http://127.0.0.1:4318", "127.0.0.1:4318", "/v1/traces"),
            ("http://[::1]:4318/", "[::1]:4318", "/v1/traces"),
            ("http://10.0.0.1/otlp", "10.0.0.1:80", "/otlp/v1/traces"),
            (
                "http://unix:/run/otel.sock:/a/",
                "localhost",
                "/a/v1/traces",
            ),
        ] {
            let url = url(text).unwrap();
            assert_eq!((url.host().as_str(), url.traces().as_str()), (host, traces));
            assert_eq!(super::url(&url.to_string()).unwrap(), url);
        }
    }

    #[test]
    fn other_urls_are_refused_with_a_remedy() {
        for text in [
            "127.0.0.1:4318",
            "https://127.0.0.1:4318",
            "http://collector:4318",
            "http://127.0.0.1:4318/?a=b",
            "grpc://127.0.0.1:4317",
        ] {
            let problem = url(text).unwrap_err();
            assert!(!problem.remedy.is_empty(), "{problem:?}");
        }
    }
}
