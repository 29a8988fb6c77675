//! The display of `top`: pure, from snapshots to a frame.

use std::collections::{HashMap, VecDeque};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table, TableState};

use super::columns::{Cells, HEADS, fit, shortened};
use super::rates;
use crate::cli::stats::rate;
use crate::control::stats::Stats;
use crate::control::status::BackendStatus;
use lb_config::BackendAddress;

/// Rates that are remembered for each service.
const HISTORY: usize = 120;
/// The sign of the chosen backend.
const CHOSEN: &str = "> ";
/// Lines of the log at the bottom.
const EVENTS: u16 = 6;

/// The data to show.
pub(super) struct Model {
    stats: Stats,
    before: Option<Stats>,
    history: HashMap<String, VecDeque<u64>>,
    chosen: usize,
    said: String,
}

impl Model {
    pub(super) fn new(stats: Stats) -> Self {
        Self {
            stats,
            before: None,
            history: HashMap::new(),
            chosen: 0,
            said: "q ends, up and down choose, d drains, u puts back in service".to_owned(),
        }
    }

    /// Takes a newer snapshot.
    pub(super) fn update(&mut self, stats: Stats) {
        let before = std::mem::replace(&mut self.stats, stats);
        for service in &self.stats.status.services {
            let rows = self.stats.traffic.iter();
            let rows = rows.filter(|row| row.service == service.name);
            let now = rows.filter_map(|row| rate(&self.stats, &before, row)).sum();
            let rates = self.history.entry(service.name.clone()).or_default();
            if rates.len() == HISTORY {
                rates.pop_front();
            }
            rates.push_back(now);
        }
        self.before = Some(before);
        self.choose(0);
    }

    pub(super) fn say(&mut self, text: String) {
        self.said = text;
    }

    /// Chooses another backend.
    pub(super) fn choose(&mut self, by: isize) {
        let last = self.backends().count().saturating_sub(1);
        self.chosen = self.chosen.saturating_add_signed(by).min(last);
    }

    /// The chosen backend and its service.
    pub(super) fn chosen(&self) -> Option<(String, BackendAddress)> {
        let (service, backend) = self.backends().nth(self.chosen)?;
        Some((service.to_owned(), backend.address.clone()))
    }

    fn backends(&self) -> impl Iterator<Item = (&str, &BackendStatus)> {
        self.stats.status.services.iter().flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(|backend| (service.name.as_str(), backend))
        })
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let services = self.stats.status.services.len() as u16;
        let packets = self.packets();
        let [head, flows, rates, backends, events, said] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(packets.is_some().into()),
            Constraint::Length(3 * services.min(4)),
            Constraint::Min(4),
            Constraint::Length(EVENTS + 2),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(Paragraph::new(packets.unwrap_or_default()), flows);
        self.draw_rates(frame, rates);
        self.draw_backends(frame, backends);
        self.draw_events(frame, events);
        frame.render_widget(Paragraph::new(self.said.as_str()), said);
    }

    fn head(&self) -> Paragraph<'_> {
        let agent = &self.stats.status.agent;
        let process = &self.stats.process;
        Paragraph::new(format!(
            "lb-agent {}  pid {}  data plane {}  up {} s  {} MiB  {} open files  {} notes",
            agent.version,
            agent.pid,
            agent.data_plane,
            agent.uptime_seconds,
            process.resident_bytes >> 20,
            process.open_fds,
            agent.notes.len(),
        ))
        .style(Style::new().add_modifier(Modifier::BOLD))
    }

    /// Interfaces of packet forwarding, and counts of its results.
    fn packets(&self) -> Option<String> {
        let packets = self.stats.status.agent.packets.as_ref()?;
        let interfaces = packets.interfaces.iter();
        let at: Vec<String> = interfaces
            .map(|interface| format!("{} {}", interface.name, interface.mode))
            .collect();
        let figures = &packets.figures;
        let dropped = figures.packets.iter();
        let dropped = dropped.filter(|(name, _)| name.starts_with("drop_"));
        Some(format!(
            "packets at {}  flows {} of {}, {} opening, {} pushed out  {} packets dropped",
            at.join(", "),
            figures.established,
            figures.capacity,
            figures.opening,
            figures.evicted,
            dropped.map(|(_, count)| count).sum::<u64>(),
        ))
    }

    fn draw_rates(&self, frame: &mut Frame<'_>, area: Rect) {
        let services = &self.stats.status.services;
        let areas =
            Layout::vertical(services.iter().take(4).map(|_| Constraint::Length(3))).split(area);
        for (service, area) in services.iter().zip(areas.iter()) {
            let rates = self.history.get(&service.name);
            let rates: Vec<u64> = rates.into_iter().flatten().copied().collect();
            let active: u64 = service.backends.iter().map(|backend| backend.active).sum();
            let title = format!(
                "{}: {}/s new, {active} open, {} refused{}",
                service.name,
                rates.last().copied().unwrap_or(0),
                service.counters.refused,
                rates::notes(&self.stats, self.before.as_ref(), &service.name)
            );
            // The latest are at the right.
            let width = usize::from(area.width.saturating_sub(2));
            let shown = &rates[rates.len().saturating_sub(width)..];
            let line = Sparkline::default()
                .data(shown)
                .style(Style::new().fg(Color::Cyan))
                .block(Block::bordered().title(title));
            frame.render_widget(line, *area);
        }
    }

    fn draw_backends(&self, frame: &mut Frame<'_>, area: Rect) {
        let backends: Vec<(Cells, Color)> = self
            .backends()
            .map(|(service, backend)| self.cells(service, backend))
            .collect();
        let (cells, colours): (Vec<Cells>, Vec<Color>) = backends.into_iter().unzip();
        // Without the borders and the sign of the chosen one.
        let width = usize::from(area.width).saturating_sub(2 + CHOSEN.len());
        let columns = fit(&cells, width);
        let row = |(cells, colour): (&Cells, Color)| {
            let cells = columns
                .iter()
                .map(|(nth, width)| shortened(&cells[*nth], *width));
            Row::new(cells).style(Style::new().fg(colour))
        };
        let rows = cells.iter().zip(colours).map(row);
        let heads = columns.iter().map(|(nth, _)| HEADS[*nth]);
        let widths = columns
            .iter()
            .map(|(_, width)| Constraint::Length(*width as u16));
        let table = Table::new(rows, widths)
            .header(Row::new(heads).style(Style::new().add_modifier(Modifier::DIM)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .highlight_symbol(CHOSEN)
            .block(Block::bordered().title("backends"));
        let mut state = TableState::default().with_selected(self.chosen);
        frame.render_stateful_widget(table, area, &mut state);
    }

    /// The cells of a backend in the order of [`HEADS`], and their colour.
    fn cells(&self, service: &str, backend: &BackendStatus) -> (Cells, Color) {
        let address = backend.address.to_string();
        let rows = self.stats.traffic.iter();
        let own = rows.filter(|row| row.service == service && row.backend == address);
        let new: u64 = own
            .filter_map(|row| rate(&self.stats, self.before.as_ref()?, row))
            .sum();
        let state = match backend.drain_seconds_left {
            Some(left) => format!("{} {left} s", backend.state),
            None => backend.state.clone(),
        };
        let health = match (&backend.health, backend.listening) {
            (Some(health), _) => health.state.clone(),
            (None, Some(false)) => "not listening".to_owned(),
            (None, Some(true)) => "listening".to_owned(),
            (None, None) => "-".to_owned(),
        };
        let colour = match (backend.state.as_str(), health.as_str()) {
            ("up", "not listening" | "down") => Color::Red,
            ("up", _) => Color::Green,
            ("draining", _) => Color::Yellow,
            _ => Color::Red,
        };
        let cells = [
            address,
            service.to_owned(),
            state,
            health,
            backend.active.to_string(),
            new.to_string(),
            backend.share_text(),
            backend.connections.to_string(),
            backend.path.clone(),
        ];
        (cells, colour)
    }

    fn draw_events(&self, frame: &mut Frame<'_>, area: Rect) {
        let now = self.stats.at_unix_ms;
        let last = self.stats.events.iter().rev().take(usize::from(EVENTS));
        let lines: Vec<Line<'_>> = last
            .map(|event| {
                let ago = now.saturating_sub(event.at_unix_ms) / 1000;
                let colour = match event.level.as_str() {
                    "ERROR" => Color::Red,
                    "WARN" => Color::Yellow,
                    _ => Color::Reset,
                };
                Line::styled(format!("{ago:>6} s ago  {}", event.message), colour)
            })
            .collect();
        let events = Paragraph::new(lines).block(Block::bordered().title("last events"));
        frame.render_widget(events, area);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn backend(address: &str, state: &str, listening: bool) -> serde_json::Value {
        json!({
            "address": address, "state": state, "listening": listening, "path": "socket", "why": "local",
            "weight": 1, "share": 0.25, "source": "file", "active": 120, "connections": 1_234_567,
            "drain_seconds_left": (state == "draining").then_some(12), "clients": "all",
            "down_because": null, "health": null,
        })
    }

    fn stats() -> Stats {
        let service = json!({
            "name": "shop/api", "mode": "tcp", "listen": ["0.0.0.0:80"], "max_load": null,
            "affinity": { "timeout_seconds": 60, "ipv4_prefix": 32, "ipv6_prefix": 64 },
            "counters": { "affinity": 1, "slot": 1, "next": 1, "refused": 0 },
            "backends": [
                backend("127.0.0.1:5000", "up", true),
                backend("[2001:db8:1234:5678::9abc]:5001", "draining", false),
            ],
        });
        let agent = json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 5, "data_plane": "bpf", "notes": [],
            "degraded": false, "config": null,
        });
        let process = json!({
            "start_unix_seconds": 0.0, "resident_bytes": 1, "cpu_seconds": 0.0, "open_fds": 1,
            "max_fds": 1, "threads": 1,
        });
        let stats = json!({
            "at_unix_ms": 0, "status": { "agent": agent, "services": [service] }, "process": process,
            "clients": [], "traffic": [], "drops": [], "tables": [], "events": [], "families": [],
        });
        serde_json::from_value(stats).unwrap()
    }

    /// The table of backends on a terminal of this width, without borders.
    fn table(width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 24)).unwrap();
        let model = Model::new(stats());
        terminal.draw(|frame| model.draw(frame)).unwrap();
        let screen = terminal.backend().buffer();
        let lines = screen.content.chunks(usize::from(width)).map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_matches(['│', ' ']).trim_end().to_owned()
        });
        let table = lines.skip_while(|line| !line.starts_with("BACKEND"));
        table.take(3).collect()
    }

    #[test]
    fn backend_is_whole_at_every_width() {
        assert_eq!(
            table(80),
            [
                "BACKEND                         STATE         HEALTH        ACTIVE NEW/S",
                "> 127.0.0.1:5000                  up            listening     120    0",
                "[2001:db8:1234:5678::9abc]:5001 draining 12 s not listening 120    0",
            ]
        );
        assert_eq!(
            table(100),
            [
                "BACKEND                         SERVICE  STATE         HEALTH        ACTIVE NEW/S SHARE TOTAL",
                "> 127.0.0.1:5000                  shop/api up            listening     120    0     25.0% 1234567",
                "[2001:db8:1234:5678::9abc]:5001 shop/api draining 12 s not listening 120    0     25.0% 1234567",
            ]
        );
        assert_eq!(
            table(160)[1],
            "> 127.0.0.1:5000                  shop/api up            listening     120    0     25.0% 1234567 \
             socket"
        );
    }

    #[test]
    fn narrow_terminal_shows_the_port() {
        assert_eq!(table(20)[2], "…678::9abc]:5001");
    }
}
