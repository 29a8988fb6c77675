//! The table of `lb-agent status`.

mod guards;
mod tls;
mod words;

use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};

use super::output::Look;
use crate::control::status::{AgentStatus, BackendStatus, HealthStatus, ServiceStatus, Status};
use crate::network::status::PacketStatus;

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();

/// Columns of the table of backends: their headings, and whether they hold numbers.
const COLUMNS: [(&str, bool); 8] = [
    ("BACKEND", false),
    ("STATE", false),
    ("PATH", false),
    ("WEIGHT", true),
    ("SHARE", true),
    ("ACTIVE", true),
    ("TOTAL", true),
    ("SOURCE", false),
];
/// The column under which a note stands that has no room in its line.
const NOTE_UNDER: usize = 1;
const INDENT: usize = 2;
const GAP: usize = 2;

/// Everything in `status`, for a person. The last line ends like the others.
pub(super) fn render(status: &Status, look: Look) -> String {
    let mut page = Page {
        text: String::new(),
        look,
    };
    let several = status.services.len() > 1;
    for service in &status.services {
        heading(&mut page, service);
        if service.backends.is_empty() {
            no_backend(&mut page, service, several);
        } else {
            backends(&mut page, &service.backends);
        }
        counters(&mut page, service);
        for line in guards::lines(service) {
            page.words(INDENT, &[(line, PLAIN)], "");
        }
        page.end_line();
    }
    agent(&mut page, &status.agent);
    page.text
}

fn heading(page: &mut Page, service: &ServiceStatus) {
    let mut words = vec![(service.mode.clone(), PLAIN)];
    words.extend(
        service
            .listen
            .iter()
            .map(|listen| (listen.to_string(), PLAIN)),
    );
    words.push((words::stickiness(service), PLAIN));
    if let Some(load) = service.max_load {
        words.push((format!("max load {load}"), PLAIN));
    }
    if let Some(tls) = &service.tls {
        words.push(tls::word(tls, SystemTime::now()));
    }
    words.insert(0, (service.name.clone(), BOLD));
    page.words(0, &words, "  ");
    for route in &service.routes {
        page.words(INDENT, &words::route(route).map(|word| (word, PLAIN)), "  ");
    }
}

fn no_backend(page: &mut Page, service: &ServiceStatus, several: bool) {
    let which = if several {
        format!(" --service {}", service.name)
    } else {
        String::new()
    };
    page.pad(INDENT);
    page.styled(YELLOW, "no backend yet");
    page.plain(&format!(" (lb-agent add-backend 127.0.0.1:5000{which})"));
    page.end_line();
}

fn backends(page: &mut Page, backends: &[BackendStatus]) {
    let rows: Vec<[String; COLUMNS.len()]> = backends.iter().map(cells).collect();
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        let longest = rows.iter().map(|row| row[column].len()).max();
        longest.unwrap_or(0).max(COLUMNS[column].0.len())
    });
    let headings = COLUMNS.map(|(heading, _)| heading.to_owned());
    row(page, &widths, &headings, |_| DIM);
    page.end_line();
    for (backend, cells) in backends.iter().zip(&rows) {
        row(page, &widths, cells, |column| match column {
            1 => state_style(backend),
            _ => PLAIN,
        });
        note(page, &widths, backend);
        page.end_line();
    }
}

fn row(
    page: &mut Page,
    widths: &[usize; COLUMNS.len()],
    cells: &[String; COLUMNS.len()],
    style: impl Fn(usize) -> Style,
) {
    page.pad(INDENT);
    for (column, cell) in cells.iter().enumerate() {
        let missing = widths[column] - cell.len();
        let (before, after) = if COLUMNS[column].1 {
            (missing, 0)
        } else {
            (0, missing)
        };
        page.pad(before);
        page.styled(style(column), cell);
        page.pad(after + GAP);
    }
}

/// Notes on a backend, behind its row or, if that would be too long, below.
fn note(page: &mut Page, widths: &[usize], backend: &BackendStatus) {
    let Some((text, style)) = note_of(backend) else {
        return;
    };
    let row: usize = INDENT + widths.iter().map(|width| width + GAP).sum::<usize>();
    if row + text.len() > page.look.width {
        page.end_line();
        page.pad(
            INDENT
                + widths[..NOTE_UNDER]
                    .iter()
                    .map(|width| width + GAP)
                    .sum::<usize>(),
        );
    }
    page.styled(style, &text);
}

fn note_of(backend: &BackendStatus) -> Option<(String, Style)> {
    let mut notes: Vec<String> = words::processes(backend).into_iter().collect();
    let mut style = PLAIN;
    if let (true, Some(seconds)) = (backend.state == "draining", backend.drain_seconds_left) {
        notes.push(format!("draining, {seconds} s left"));
        style = YELLOW;
    }
    if backend.down_because.as_deref() == Some("loop") {
        notes.push("leads back to lb-agent".to_owned());
        style = RED;
    }
    if let Some(health) = &backend.health {
        notes.extend(health_note(health));
        if health.state == "down" {
            style = RED;
        }
    }
    if backend.listening == Some(false) && backend.state != "no listener" {
        notes.push("not listening".to_owned());
        style = RED;
    }
    notes.extend(words::through_the_agent(backend));
    if backend.path != "socket" {
        notes.extend(backend.class.clone());
        notes.push(backend.why.clone());
    }
    (!notes.is_empty()).then(|| (notes.join("; "), style))
}

/// The fault that a check has found, while it matters.
fn health_note(health: &HealthStatus) -> Option<String> {
    let error = health.last_error.as_deref().unwrap_or("no error yet");
    let (check, since) = (&health.check, span(health.since_seconds));
    match (health.state.as_str(), health.against) {
        ("down", _) => Some(format!("unhealthy for {since}: {check}: {error}")),
        ("unknown", _) => Some(format!("not checked yet: {check}")),
        (_, 0) => None,
        (_, against) => Some(format!("failed {against} times in a row: {check}: {error}")),
    }
}

fn state_style(backend: &BackendStatus) -> Style {
    match backend.state.as_str() {
        "up" => GREEN,
        "draining" => YELLOW,
        _ => RED,
    }
}

fn cells(backend: &BackendStatus) -> [String; COLUMNS.len()] {
    [
        backend.address.to_string(),
        backend.state.clone(),
        backend.path.clone(),
        backend.weight.to_string(),
        backend.share_text(),
        backend.active.to_string(),
        backend.connections.to_string(),
        backend.source.clone(),
    ]
}

fn counters(page: &mut Page, service: &ServiceStatus) {
    if let Some(text) = words::nobody(service) {
        page.pad(INDENT);
        page.styled(RED, &text);
        page.end_line();
    }
    let counters = &service.counters;
    let style = if counters.refused == 0 { PLAIN } else { RED };
    let words = words::clients(counters, service.max_load).map(|word| (word, PLAIN));
    let refused = (format!("{} refused", counters.refused), style);
    let denied = (counters.denied > 0).then(|| {
        (
            format!("({} denied by bans and lists)", counters.denied),
            PLAIN,
        )
    });
    let capped = (counters.capped > 0).then(|| {
        let text = format!("({} over client_connections)", counters.capped);
        (text, PLAIN)
    });
    let words = words.into_iter().chain([refused]);
    let words: Vec<_> = words.chain(denied).chain(capped).collect();
    page.words(INDENT, &words, " ");
}

fn agent(page: &mut Page, agent: &AgentStatus) {
    let config = match &agent.config {
        Some(path) => path.clone(),
        None => "built-in configuration".to_owned(),
    };
    let words = [
        (format!("lb-agent {}", agent.version), BOLD),
        (format!("pid {}", agent.pid), PLAIN),
        (format!("up {}", uptime(agent.uptime_seconds)), PLAIN),
        (format!("data plane {}", agent.data_plane), PLAIN),
        (config, PLAIN),
    ];
    let cache = agent.cache.as_ref();
    let cache = cache.map(|size| (guards::cache_size(size), PLAIN));
    let degraded = agent.degraded.then(|| ("degraded".to_owned(), RED));
    let words: Vec<_> = words.into_iter().chain(cache).chain(degraded).collect();
    page.words(0, &words, "  ");
    if let Some(packets) = &agent.packets {
        packet_paths(page, packets);
    }
    for note in &agent.notes {
        page.styled(YELLOW, "note: ");
        page.plain(note);
        page.end_line();
    }
}

/// Interfaces of packet forwarding, load of the flow table, and reasons for dropped packets.
fn packet_paths(page: &mut Page, packets: &PacketStatus) {
    for interface in &packets.interfaces {
        let why = interface.why.as_ref().map(|why| format!(" ({why})"));
        let style = if interface.mode == "none" { RED } else { PLAIN };
        page.plain("packets at ");
        page.plain(&interface.name);
        page.plain(": ");
        page.styled(style, &interface.mode);
        page.plain(&why.unwrap_or_default());
        page.end_line();
    }
    let figures = &packets.figures;
    let drops: Vec<String> = figures
        .packets
        .iter()
        .filter(|(name, count)| name.starts_with("drop_") && *count > 0)
        .map(|(name, count)| format!("{} {count}", name.trim_start_matches("drop_")))
        .collect();
    page.plain(&format!(
        "flows {} of {}, {} opening, {} pushed out",
        figures.established, figures.capacity, figures.opening, figures.evicted
    ));
    if !drops.is_empty() {
        page.plain(&format!("; dropped: {}", drops.join(", ")));
    }
    page.end_line();
}

/// Seconds matter only in the first hour.
fn uptime(seconds: u64) -> String {
    span(if seconds < 3600 {
        seconds
    } else {
        seconds - seconds % 60
    })
}

/// A time in whole seconds, as in "3h 12m".
fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Text under way.
struct Page {
    text: String,
    look: Look,
}

impl Page {
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn styled(&mut self, style: Style, text: &str) {
        if self.look.colour && style != PLAIN {
            self.text.push_str(&format!("{style}{text}{style:#}"));
        } else {
            self.plain(text);
        }
    }

    fn pad(&mut self, columns: usize) {
        self.text.extend(std::iter::repeat_n(' ', columns));
    }

    /// Words in a line that is indented by `indent` columns, and in more lines if they do not fit.
    fn words(&mut self, indent: usize, words: &[(String, Style)], between: &str) {
        self.pad(indent);
        let mut column = indent;
        for (index, (word, style)) in words.iter().enumerate() {
            let length = word.chars().count();
            if index > 0 && column + between.len() + length > self.look.width {
                self.end_line();
                self.pad(2 * INDENT);
                column = 2 * INDENT;
            } else if index > 0 {
                self.plain(between);
                column += between.len();
            }
            self.styled(*style, word);
            column += length;
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests;
