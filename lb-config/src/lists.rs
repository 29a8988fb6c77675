//! Lists that services and routes have alike: listen addresses, former names, backends.

use std::net::SocketAddr;
use std::str::FromStr as _;

use super::error::{Located, Problems};
use super::reader::Value;
use super::{BackendAddress, Path, packet, value};

const BACKENDS: &str = "[\"127.0.0.1:5000\", { address = \"127.0.0.1:5001\", weight = 2 }]";

/// A backend as it was written.
pub(super) struct RawBackend {
    pub(super) address: Located<BackendAddress>,
    pub(super) weight: u16,
    pub(super) path: Path,
}

/// Addresses to listen on, as in `example`.
pub(super) fn listen(
    value: &Value<'_, '_>,
    example: &str,
    problems: &mut Problems,
) -> Vec<Located<SocketAddr>> {
    let found = problems.count();
    let items = value.list(example, problems);
    if items.is_empty() && problems.count() == found {
        problems.add(
            &value.place,
            format!("no address (write listen = {example})"),
        );
    }
    items
        .iter()
        .filter_map(|item| {
            let address = item.string("\"0.0.0.0:80\"", problems, value::listen_address)?;
            Some(item.locate(address))
        })
        .collect()
}

/// A former name, or several.
pub(super) fn former_names(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<Located<String>> {
    let one = |item: &Value<'_, '_>, problems: &mut Problems| {
        let name = item.string("\"old-name\"", problems, value::service_name)?;
        Some(item.locate(name))
    };
    if value.is_string() {
        return one(value, problems).into_iter().collect();
    }
    let items = value.list("[\"old-name\", \"older-name\"]", problems);
    items
        .iter()
        .filter_map(|item| one(item, problems))
        .collect()
}

/// Backends, on the path `usual` where they name none.
pub(super) fn backends(
    value: &Value<'_, '_>,
    usual: Path,
    problems: &mut Problems,
) -> Vec<RawBackend> {
    let items = value.list(BACKENDS, problems);
    items
        .iter()
        .filter_map(|item| backend(item, usual, problems))
        .collect()
}

/// A backend: a table, or just its address.
fn backend(item: &Value<'_, '_>, usual: Path, problems: &mut Problems) -> Option<RawBackend> {
    const EXAMPLE: &str = "\"127.0.0.1:5000\"";
    if !item.is_table() {
        let address = item.string(EXAMPLE, problems, BackendAddress::from_str)?;
        return Some(RawBackend {
            address: item.locate(address),
            weight: 1,
            path: usual,
        });
    }
    let mut table = item.table(EXAMPLE, problems)?;
    let address = table
        .require("address", EXAMPLE, problems)
        .and_then(|value| {
            let address = value.string(EXAMPLE, problems, BackendAddress::from_str)?;
            Some(value.locate(address))
        });
    let weight = table.take("weight").and_then(|value| {
        let number = value.integer("1", problems)?;
        problems.keep(&value.place, value::weight(number))
    });
    let path = table
        .take("path")
        .and_then(|value| packet::path(&value, problems));
    table.finish(problems);
    Some(RawBackend {
        address: address?,
        weight: weight.unwrap_or(1),
        path: path.unwrap_or(usual),
    })
}
