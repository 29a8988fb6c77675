//! `cargo xtask bench plot`: table and picture of a run, from the JSON that it printed.
//!
//! Both go where docs/performance.md has the two marks of the benchmark, and the run is kept beside the picture. So
//! figures and pictures come from one run.

mod chart;
mod svg;

use crate::sh::{self, say};
use anyhow::{Context, Result};
use chart::Chart;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The page with the marks.
const PAGE: &str = "docs/performance.md";
/// The directory of pictures and runs.
const PLOTS: &str = "docs/plots";

/// Arguments of `cargo xtask bench plot`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of the benchmark, as in the page's marks
    #[arg(value_name = "NAME")]
    name: String,
    /// The JSON of its run
    #[arg(value_name = "FILE")]
    run: PathBuf,
}

/// Writes the picture, the run and the table.
pub(super) fn plot(args: &Args) -> Result<()> {
    plot_below(sh::workspace(), args)
}

fn plot_below(root: &Path, Args { name, run }: &Args) -> Result<()> {
    let text = fs::read_to_string(run).with_context(|| format!("read {}", run.display()))?;
    let json: Value = serde_json::from_str(&text).context("the run is no JSON")?;
    let chart = Chart::of(&json)?;
    let page = root.join(PAGE);
    let old = fs::read_to_string(&page).with_context(|| format!("read {PAGE}"))?;
    let new = with_block(&old, name, &block(name, &chart))?;
    let plots = root.join(PLOTS);
    fs::create_dir_all(&plots)?;
    fs::write(plots.join(format!("{name}.svg")), svg::svg(name, &chart))?;
    fs::write(plots.join(format!("{name}.json")), text)?;
    fs::write(page, new)?;
    say(format!(
        "{PAGE}, {PLOTS}/{name}.svg and {PLOTS}/{name}.json are of this run"
    ));
    Ok(())
}

/// The picture and the table in Markdown.
fn block(name: &str, chart: &Chart) -> String {
    format!(
        "![{}](plots/{name}.svg)\n\n{}",
        chart.title,
        chart.markdown()
    )
}

/// The page with another text between the marks of `name`.
fn with_block(page: &str, name: &str, block: &str) -> Result<String> {
    let (start, end) = (
        format!("<!-- plot:{name} -->"),
        format!("<!-- /plot:{name} -->"),
    );
    let missing = || format!("{PAGE} needs the lines {start} and {end}");
    let (before, rest) = page.split_once(&start).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!(
        "{before}{start}\n\n{}\n\n{end}{after}",
        block.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"connections": 64, "seconds": 3, "results": [
        {"kind": "keep-alive", "path": "direct", "requests_per_second": 200.0, "ratio_to_direct": 1.0},
        {"kind": "keep-alive", "path": "steered", "requests_per_second": 190.0, "ratio_to_direct": 0.95}]}"#;

    #[test]
    fn table_picture_and_run_come_from_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str| dir.path().join(path);
        fs::create_dir(file("docs")).unwrap();
        let page = "# P\n<!-- plot:socket -->\nold\n<!-- /plot:socket -->\nrest\n";
        fs::write(file(PAGE), page).unwrap();
        fs::write(file("run.json"), RUN).unwrap();
        let args = |name: &str| Args {
            name: name.to_owned(),
            run: file("run.json"),
        };
        plot_below(dir.path(), &args("socket")).unwrap();
        let page = fs::read_to_string(file(PAGE)).unwrap();
        assert!(
            page.contains("](plots/socket.svg)") && page.ends_with("\nrest\n"),
            "{page}"
        );
        assert!(
            page.contains("| keep-alive | 200 (1.000) | 190 (0.950) |"),
            "{page}"
        );
        assert!(!page.contains("old"));
        assert_eq!(
            fs::read_to_string(file("docs/plots/socket.json")).unwrap(),
            RUN
        );
        let picture = fs::read_to_string(file("docs/plots/socket.svg")).unwrap();
        assert!(
            picture.contains("steered") && picture.contains(">190 (0.950)<"),
            "{picture}"
        );
        let error = plot_below(dir.path(), &args("nat")).unwrap_err();
        assert!(error.to_string().contains("<!-- plot:nat -->"), "{error}");
    }
}
