//! A picture of a chart: horizontal bars in SVG, in colours that follow the reader's light or dark theme.

use super::chart::{Chart, Group};
use std::fmt::Write as _;

/// Width of the picture, of the names and of the longest bar, in pixels.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 270.0;
const LONGEST: f64 = 340.0;
/// Height of a line.
const LINE: f64 = 22.0;

const STYLE: &str = "\
text { font: 13px sans-serif; fill: #24292f; }
.title, .group { font-weight: bold; }
.bar { fill: #8c959f; }
.ours { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7681; }
  .ours { fill: #2f81f7; }
}
";

/// The picture. The longest bar of each group has the same length.
pub(super) fn svg(name: &str, chart: &Chart) -> String {
    let mut drawing = Drawing::default();
    drawing.text("title", 0.0, &format!("bench {name}: {}", chart.title));
    drawing.line();
    for group in &chart.groups {
        drawing.group(group);
    }
    let height = drawing.y + LINE / 2.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <style>\n{STYLE}</style>\n{}</svg>\n",
        drawing.shapes
    )
}

#[derive(Default)]
struct Drawing {
    shapes: String,
    /// Top of the current line.
    y: f64,
}

impl Drawing {
    fn line(&mut self) {
        self.y += LINE;
    }

    fn text(&mut self, class: &str, x: f64, text: &str) {
        let (x, y) = (x + 6.0, self.y + LINE * 0.7);
        let text = escaped(text);
        let _ = writeln!(
            self.shapes,
            "<text class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\">{text}</text>"
        );
    }

    fn group(&mut self, group: &Group) {
        if !group.label.is_empty() {
            self.text("group", 0.0, &group.label);
            self.line();
        }
        let most = group.bars.iter().map(|bar| bar.value);
        let most = most.fold(f64::MIN_POSITIVE, f64::max);
        for bar in &group.bars {
            self.text("name", 0.0, &bar.name);
            let width = LONGEST * bar.value / most;
            let (y, height) = (self.y + 3.0, LINE - 6.0);
            let class = if bar.ours { "bar ours" } else { "bar" };
            let _ = writeln!(
                self.shapes,
                "<rect class=\"{class}\" x=\"{NAMES}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{height}\"/>"
            );
            self.text("value", NAMES + width, &bar.shown());
            self.line();
        }
        self.y += LINE / 2.0;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::chart::Bar;
    use super::*;

    #[test]
    fn the_longest_bar_has_the_full_length_and_text_is_escaped() {
        let bar = |name: &str, value: f64, ours| Bar {
            name: name.to_owned(),
            value,
            ratio: None,
            ours,
        };
        let chart = Chart {
            title: "a & b".to_owned(),
            groups: vec![Group {
                label: "g".to_owned(),
                bars: vec![bar("half", 50.0, true), bar("<full>", 100.0, false)],
            }],
        };
        let svg = svg("x", &chart);
        assert!(
            svg.contains("class=\"bar ours\"") && svg.contains("width=\"170.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("width=\"340.0\"") && svg.contains("&lt;full&gt;"),
            "{svg}"
        );
        assert!(svg.contains("prefers-color-scheme: dark") && svg.contains("a &amp; b"));
    }
}
