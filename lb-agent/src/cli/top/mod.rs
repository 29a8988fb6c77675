//! `lb-agent top`: present activity, on the whole terminal. `view` draws; this file queries the agent,
//! listens to keys and carries out their commands.

mod columns;
mod rates;
mod view;

use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::failure::Failure;
use super::{Control, wait_for};
use crate::control::client::Client;
use crate::control::message::Command;
use crate::state::overlay::AtEnd;
use view::Model;

/// How long a key may wait.
const NAP: Duration = Duration::from_millis(100);

/// Watch services and backends, drain and undrain them
///
/// Up and down choose a backend, d drains it, u puts it back in service, q ends.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent top --interval 500ms")]
pub(super) struct Top {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
}

impl Top {
    pub(super) fn carry_out(&self, control: &Control) -> Result<(), Failure> {
        let client = control.client();
        // Before the terminal is taken: an agent that is not there is told as usual.
        let first = wait_for(client.read(&Command::Stats))?
            .map_err(|error| Failure::of_call("top", error))?;
        let mut model = Model::new(first);
        let mut terminal = ratatui::try_init()
            .map_err(|error| Failure::failed(format!("top: use the terminal: {error}")))?;
        let outcome = self.go_on(&client, &mut model, &mut terminal);
        ratatui::restore();
        outcome
    }

    fn go_on(
        &self,
        client: &Client,
        model: &mut Model,
        terminal: &mut ratatui::DefaultTerminal,
    ) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("top: {error}"));
        let interval = self.interval.max(NAP);
        let mut looked = Instant::now();
        loop {
            terminal.draw(|frame| model.draw(frame)).map_err(failed)?;
            if event::poll(NAP).map_err(failed)?
                && let Event::Key(key) = event::read().map_err(failed)?
                && key.kind == KeyEventKind::Press
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Up | KeyCode::Char('k') => model.choose(-1),
                    KeyCode::Down | KeyCode::Char('j') => model.choose(1),
                    KeyCode::Char('d') => change(client, model, Change::Drain)?,
                    KeyCode::Char('u') => change(client, model, Change::Undrain)?,
                    _ => {}
                }
            }
            if looked.elapsed() >= interval {
                looked = Instant::now();
                match wait_for(client.read(&Command::Stats))? {
                    Ok(stats) => model.update(stats),
                    // It may be restarting.
                    Err(error) => model.say(error.to_string()),
                }
            }
        }
    }
}

enum Change {
    Drain,
    Undrain,
}

/// Drains the chosen backend or puts it back, and shows the agent's answer.
fn change(client: &Client, model: &mut Model, change: Change) -> Result<(), Failure> {
    let Some((service, address)) = model.chosen() else {
        return Ok(());
    };
    let service = Some(service);
    let command = match change {
        Change::Drain => Command::DrainBackend {
            address,
            service,
            timeout: None,
            at_end: AtEnd::Leave,
            now: false,
        },
        Change::Undrain => Command::AddBackend {
            address,
            service,
            weight: None,
            ensure: true,
        },
    };
    let said = wait_for(client.change(&command))?;
    model.say(said.unwrap_or_else(|error| error.to_string()));
    if let Ok(stats) = wait_for(client.read(&Command::Stats))? {
        model.update(stats);
    }
    Ok(())
}
