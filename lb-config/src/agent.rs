//! Which keys there are, their types and their defaults: `[agent]`.

use std::path::PathBuf;

use super::error::Problems;
use super::metrics;
use super::packet;
use super::reader::{Table, Value};
use super::value;
use super::{AgentConfig, DataPlane};

/// Most clients that can be remembered: more would take gigabytes of kernel memory.
const MAX_CLIENTS: u32 = 1 << 24;
/// Most connections that can be allowed: more would be no limit.
pub(super) const MAX_CONNECTIONS: u32 = 1 << 24;
/// Longest path of a unix socket: `sun_path` less its final zero, unix(7).
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn read(mut table: Table<'_, '_>, problems: &mut Problems) -> AgentConfig {
    let usual = AgentConfig::default();
    let mut take = |key, problems: &mut Problems| {
        table
            .take(key)
            .and_then(|value| absolute_path(&value, problems))
    };
    let state_dir = take("state_dir", problems).unwrap_or(usual.state_dir);
    let pin_dir = take("pin_dir", problems).unwrap_or(usual.pin_dir);
    let cgroup = take("cgroup", problems);
    let control = table
        .take("control")
        .and_then(|value| socket_path(&value, problems));
    let data_plane = table
        .take("data_plane")
        .and_then(|value| data_plane(&value, problems));
    let hash_seed = table
        .take("hash_seed")
        .and_then(|value| value.string("\"0123...\"", problems, value::hash_seed));
    let max_clients = table
        .take("max_clients")
        .and_then(|value| value.integer_in(1..=MAX_CLIENTS, problems));
    let max_connections = table
        .take("max_connections")
        .and_then(|value| value.integer_in(1..=MAX_CONNECTIONS, problems));
    let l7_workers = table
        .take("l7_workers")
        .and_then(|value| value.integer_in(0..=1024, problems));
    let metrics = table
        .take("metrics")
        .and_then(|value| value.string("\"127.0.0.1:9600\"", problems, metrics::address));
    let control_mode = table
        .take("control_mode")
        .and_then(|value| value.string("\"0660\"", problems, control_mode));
    let packet = packet::agent(&mut table, problems);
    table.finish(problems);
    AgentConfig {
        state_dir,
        control: control.unwrap_or(usual.control),
        pin_dir,
        data_plane: data_plane.unwrap_or(usual.data_plane),
        hash_seed,
        max_clients: max_clients.unwrap_or(usual.max_clients),
        max_connections,
        l7_workers: l7_workers.unwrap_or(usual.l7_workers),
        cgroup,
        control_mode,
        packet,
        metrics,
    }
}

/// Three octal digits, of which the owner's are read and write.
fn control_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('0').unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok();
    mode.filter(|mode| digits.len() == 3 && mode & 0o711 == 0o600)
        .ok_or_else(|| {
            format!(
                "{} is not a mode for the control socket (write \"0660\", or \"0666\" to let \
                 everybody on this host read)",
                value::quoted(text)
            )
        })
}

fn data_plane(value: &Value<'_, '_>, problems: &mut Problems) -> Option<DataPlane> {
    let choices = [
        ("auto", DataPlane::Auto),
        ("bpf", DataPlane::Bpf),
        ("userspace", DataPlane::Userspace),
    ];
    value.choice(&choices, &[], problems)
}

fn absolute_path(value: &Value<'_, '_>, problems: &mut Problems) -> Option<PathBuf> {
    value.string("\"/var/lib/lb-agent\"", problems, |text| {
        let shown = value::quoted(text);
        if text.contains(|c: char| c.is_control()) {
            return Err(format!(
                "{shown} has control characters (write a plain path)"
            ));
        }
        let path = PathBuf::from(text);
        // What the agent makes and removes is directly under these: never the root itself.
        if !path.is_absolute() || path.parent().is_none() {
            return Err(format!(
                "{shown} is not an absolute path (start it with \"/\" and name a place of its own)"
            ));
        }
        Ok(path)
    })
}

fn socket_path(value: &Value<'_, '_>, problems: &mut Problems) -> Option<PathBuf> {
    let path = absolute_path(value, problems)?;
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let message = format!(
            "{length} bytes are too long for the path of a socket (at most {MAX_SOCKET_PATH})"
        );
        problems.add(&value.place, message);
        return None;
    }
    Some(path)
}
