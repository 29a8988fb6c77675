//! What backends speak.

use super::Protocol;
use crate::error::{Located, Problems};
use crate::reader::Value;

/// What is wrong with PROXY headers to backends of HTTP/2.
pub(super) const INTRODUCED_AND_SHARED: &str = "a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one \
     (leave send_proxy_protocol out: X-Forwarded-For and Forwarded tell who asks)";

/// Reads it.
pub(super) fn read(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Located<Protocol>> {
    let choices = [("http1", Protocol::Http1), ("h2c", Protocol::H2c)];
    let protocol = value.choice(&choices, &[], problems)?;
    Some(value.locate(protocol))
}
