//! What the backends answer.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;

/// Pages of nothing but zeros, with their bytes.
pub(super) const ZEROS: [(&str, usize); 3] =
    [("1k", 1 << 10), ("64k", 64 << 10), ("10m", 10 << 20)];
/// The least that the JSON has, in bytes.
const JSON: usize = 5632;

/// Writes the pages into a directory of their own.
pub(super) fn write(pages: &Path) -> Result<()> {
    fs::create_dir(pages).context("make the pages")?;
    for (name, bytes) in ZEROS {
        let page = File::create(pages.join(name)).context("make a page")?;
        page.set_len(bytes as u64).context("make a page")?;
    }
    fs::write(pages.join("chunked"), chunked()).context("make a page")?;
    fs::write(pages.join("items.json"), json()).context("make a page")
}

/// The page that comes in chunks: 300 bytes.
pub(super) fn chunked() -> String {
    "<p>some text</p>\n<p>more.</p>\n".repeat(10)
}

/// A list as a shop's application would answer with, of some 5.5 KiB.
pub(super) fn json() -> String {
    const WORDS: [&str; 8] = [
        "kettle", "lantern", "blue", "oak", "travel", "large", "copper", "folding",
    ];
    let mut state = 1u32;
    let mut below = |end: usize| {
        // A linear congruential generator (Numerical Recipes): the same list in each run.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % end
    };
    let mut text = String::from("[");
    for id in 1.. {
        let (first, second, third) = (WORDS[below(8)], WORDS[below(8)], WORDS[below(8)]);
        let (euros, cents, stock) = (below(500), below(100), below(10_000));
        let sku = below(1 << 24);
        let _ = write!(
            text,
            "{{\"id\":{id},\"sku\":\"{sku:06x}\",\"name\":\"{first} {second}\",\
             \"price\":{euros}.{cents:02},\"stock\":{stock},\"tags\":[\"{second}\",\"{third}\"]}}"
        );
        if text.len() >= JSON {
            break;
        }
        text.push(',');
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_their_sizes_and_the_json_is_json() {
        assert_eq!(chunked().len(), 300);
        let json = json();
        assert!((JSON..JSON + 200).contains(&json.len()), "{}", json.len());
        let list: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(list[0]["price"].is_f64());
    }
}
