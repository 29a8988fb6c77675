//! `lb-agent cache`: the size of the response cache, what it did, and stored responses.

use std::fmt::Write as _;

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::cache::CacheReport;
use crate::control::message::Command;

/// Show the response cache: size, hits, stored responses
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent cache --prefix https://example.com/assets/")]
pub(super) struct Cache {
    /// Stored responses whose URL begins so
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    prefix: String,
    /// Most stored responses to show, those with the most hits first
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    most: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Cache {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let Self { prefix, most, json } = self;
        let command = Command::Cache { prefix, most };
        let client = control.client();
        let failed = |error| Failure::of_call("cache", error);
        if json {
            return output::text(&wait_for(client.text(&command))?.map_err(failed)?);
        }
        let report: CacheReport = wait_for(client.read(&command))?.map_err(failed)?;
        output::text(&render(&report))
    }
}

fn render(report: &CacheReport) -> String {
    let CacheReport {
        bytes,
        capacity,
        entries,
        hit,
        miss,
        stale,
        revalidated,
        objects,
    } = report;
    let from_memory = hit + stale + revalidated;
    let part = (from_memory * 100).checked_div(from_memory + miss);
    let part = part.map_or_else(|| "-".to_owned(), |part| format!("{part} %"));
    let mut text = format!(
        "{bytes} of {capacity} bytes in {entries} entries\n\
         {part} from memory: {hit} hit, {stale} stale, {revalidated} revalidated, {miss} miss\n"
    );
    if !objects.is_empty() {
        text.push_str("\n    HITS     BYTES     AGE    FRESH  URL\n");
    }
    for object in objects {
        let url: String = object.url.chars().filter(|c| !c.is_control()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:>8}  {:>8}  {:>6}  {:>7}  {url}",
            object.hits, object.bytes, object.age_seconds, object.lifetime_seconds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::cache::CachedObject;

    #[test]
    fn report_has_size_share_and_responses() {
        let object = CachedObject {
            url: "http://a/\x1b[1m".to_owned(),
            bytes: 1536,
            hits: 3,
            age_seconds: 7,
            lifetime_seconds: 60,
        };
        let report = CacheReport {
            bytes: 1536,
            capacity: 1 << 20,
            entries: 1,
            hit: 3,
            miss: 1,
            objects: vec![object],
            ..CacheReport::default()
        };
        assert_eq!(
            render(&report),
            "1536 of 1048576 bytes in 1 entries\n\
             75 % from memory: 3 hit, 0 stale, 0 revalidated, 1 miss\n\n    \
             HITS     BYTES     AGE    FRESH  URL\n       \
             3      1536       7       60  http://a/[1m\n"
        );
        assert!(render(&CacheReport::default()).contains("\n- from memory"));
    }
}
