//! Rules for the prose of pages: short sentences with a noun as their subject, and no retired name.

use super::{Complaint, Source};

/// Words of a sentence at most.
const MOST_WORDS: usize = 25;
/// Occurrences of [`PRONOUNS`] in a thousand words of all pages together at most.
const MOST_PRONOUNS: usize = 3;
/// Words that stand in the place of a noun.
const PRONOUNS: [&str; 8] = [
    "who", "whom", "whose", "what", "where", "whoever", "whatever", "wherever",
];
/// Pages to be read as a whole. Those below docs/design tell of code, and the reference is generated from it.
const PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "docs/"];
const OTHER_PAGES: [&str; 2] = ["docs/design/", "docs/configuration.md"];
/// Names of former types and functions, with their successors.
const RETIRED: [(&str, &str); 6] = [
    (concat!("Err", "and"), "RequestContext"),
    (concat!("Pass", "age"), "a filter of the response"),
    (concat!("La", "ne"), "RouteConfig"),
    (concat!("Sen", "try"), "framing validator"),
    (concat!("Lear", "ner"), "SessionSniffer"),
    (concat!("is_", "deaf"), "has_bind_failures"),
];

/// A sentence, and the line that its paragraph begins at.
struct Sentence {
    line: usize,
    text: String,
}

impl Sentence {
    fn words(&self) -> impl Iterator<Item = &str> {
        let words = self.text.split_whitespace();
        words.filter(|word| word.contains(char::is_alphanumeric))
    }
}

/// No sentence of a page for operators is long.
pub(super) fn sentences_are_short(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for page in sources.iter().filter(|source| is_for_operators(source)) {
        for sentence in sentences(page) {
            let words = sentence.words().count();
            if words > MOST_WORDS {
                let start: Vec<&str> = sentence.words().take(5).collect();
                let message = format!("{words} words, over {MOST_WORDS}: {} …", start.join(" "));
                complaints.push(page.complain(sentence.line, message));
            }
        }
    }
    complaints
}

/// Few sentences of these pages have a pronoun in the place of a noun.
pub(super) fn subjects_have_names(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut words = 0;
    for page in sources.iter().filter(|source| is_for_operators(source)) {
        for sentence in sentences(page) {
            words += sentence.words().count();
            for word in sentence.words().filter(|word| is_pronoun(word)) {
                complaints
                    .push(page.complain(sentence.line, format!("\"{word}\": name the thing")));
            }
        }
    }
    if complaints.len() * 1000 > words * MOST_PRONOUNS {
        return complaints;
    }
    Vec::new()
}

/// No retired name comes back.
pub(super) fn retired_names_stay_away(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() || source.is_page())
    {
        for (number, line) in source.lines() {
            let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for (retired, successor) in RETIRED {
                if words().any(|word| word == retired) {
                    let message = format!("{retired} was given up for: {successor}");
                    complaints.push(source.complain(number, message));
                }
            }
        }
    }
    complaints
}

fn is_for_operators(source: &Source) -> bool {
    let starts = |paths: &[&str]| paths.iter().any(|path| source.path.starts_with(path));
    source.is_page() && starts(&PAGES) && !starts(&OTHER_PAGES)
}

fn is_pronoun(word: &str) -> bool {
    let word = word
        .trim_matches(|c: char| !c.is_alphanumeric())
        .to_lowercase();
    PRONOUNS.contains(&word.as_str())
}

/// The sentences of paragraphs, list items and cells of tables; not those of headings and blocks of code.
fn sentences(page: &Source) -> Vec<Sentence> {
    let mut found = Vec::new();
    for (line, paragraph) in paragraphs(page) {
        let mut text = String::new();
        for word in plain(&paragraph).split_whitespace() {
            text.push_str(word);
            text.push(' ');
            let end = word.trim_end_matches(['"', ')', '*', '”']);
            if end.ends_with(['.', '!', '?']) {
                let text = std::mem::take(&mut text);
                found.push(Sentence { line, text });
            }
        }
        found.push(Sentence { line, text });
    }
    found
}

/// Paragraphs, list items and cells, each with the line that it begins at.
fn paragraphs(page: &Source) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_code = false;
    let mut goes_on = false;
    for (number, line) in page.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_code = !is_code;
            goes_on = false;
        } else if is_code || line.is_empty() || line.starts_with(['#', '<']) {
            goes_on = false;
        } else if line.starts_with('|') {
            goes_on = false;
            let cells = line.split('|').map(|cell| (number, cell.to_owned()));
            found.extend(cells);
        } else if let Some(item) = item(line) {
            goes_on = true;
            found.push((number, item.to_owned()));
        } else if let Some((_, paragraph)) = found.last_mut().filter(|_| goes_on) {
            paragraph.push(' ');
            paragraph.push_str(line);
        } else {
            goes_on = true;
            found.push((number, line.to_owned()));
        }
    }
    found
}

/// The text of an item of a list.
fn item(line: &str) -> Option<&str> {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = number.len() < line.len();
    let numbered = number.strip_prefix(". ").filter(|_| is_numbered);
    line.strip_prefix("- ").or(numbered)
}

/// The text with each code span as one word, and without the targets of links.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split('`').enumerate() {
        match index % 2 {
            0 => plain.push_str(part),
            _ => plain.push_str("code"),
        }
    }
    let mut parts = plain.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(path: &str, text: &str) -> Vec<String> {
        let sources = [Source::new(path, text)];
        let mut complaints = sentences_are_short(&sources);
        complaints.extend(subjects_have_names(&sources));
        complaints.extend(retired_names_stay_away(&sources));
        complaints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sentence_of_26_words_is_found_with_its_line() {
        let words = |count: usize| "word ".repeat(count);
        assert_eq!(about("README.md", &format!("{}end.\n", words(24))), [""; 0]);
        let page = format!("# A\n\nShort one.\n{}end.\n", words(25));
        let expected = "README.md:3: 26 words, over 25: word word word word word …";
        assert_eq!(about("README.md", &page), [expected]);
        assert_eq!(about("docs/design/a.md", &page), [""; 0]);
    }

    #[test]
    fn cells_items_and_code_are_counted_apart() {
        let words = "word ".repeat(14);
        let page =
            format!("- {words}\n- {words}\n\n| {words}| {words}|\n\n```sh\n{words}{words}\n```\n");
        assert_eq!(about("docs/a.md", &page), [""; 0]);
        let page = format!("{words} `{words}{words}` [{words}](a b c d e f g)\n");
        assert_eq!(about("docs/a.md", &page).len(), 1);
    }

    #[test]
    fn many_pronouns_are_found_and_one_in_a_thousand_words_is_not() {
        let page = "The agent tells who asks.\n";
        assert_eq!(
            about("docs/a.md", page),
            ["docs/a.md:1: \"who\": name the thing"]
        );
        let long = "Words are here.\n\n".repeat(334);
        assert_eq!(about("docs/a.md", &format!("{long}{page}")), [""; 0]);
    }

    #[test]
    fn a_name_that_was_given_up_is_found_as_a_word() {
        let (retired, _) = RETIRED[0];
        assert_eq!(about("a.rs", &format!("struct {retired};\n")).len(), 1);
        assert_eq!(about("a.rs", &format!("struct {retired}s;\n")), [""; 0]);
        assert_eq!(about("a.toml", retired), [""; 0]);
    }
}
