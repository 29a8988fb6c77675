//! Words and signs of Rust code, without comments, text and lifetimes.

use std::iter::Peekable;
use std::str::CharIndices;

/// A word or a sign of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// A name or keyword, `::`, or one other character.
    pub(super) text: &'a str,
    /// The line, counted from 1.
    pub(super) line: usize,
}

impl Token<'_> {
    /// Whether this is a name or a keyword.
    pub(super) fn is_name(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of a file, in order. Numbers are left out with comments and literals: no path has one.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer {
        text,
        chars: text.char_indices().peekable(),
        line: 1,
        found: Vec::new(),
    };
    while lexer.step() {}
    lexer.found
}

struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    line: usize,
    found: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    /// Reads one token, comment, literal or space. `false` at the end of the text.
    fn step(&mut self) -> bool {
        let Some((start, c)) = self.next() else {
            return false;
        };
        let line = self.line;
        let rest = &self.text[start..];
        if rest.starts_with("//") {
            while self.chars.peek().is_some_and(|(_, c)| *c != '\n') {
                self.next();
            }
        } else if rest.starts_with("/*") {
            self.block_comment();
        } else if c == '"' {
            self.text_literal();
        } else if c == '\'' {
            self.quote();
        } else if let Some(hashes) = raw_text(rest) {
            self.raw_text_literal(hashes);
        } else if c.is_alphanumeric() || c == '_' {
            let name = self.word(start);
            let is_prefix = matches!(self.chars.peek(), Some((_, '"' | '\'')));
            if !c.is_numeric() && !is_prefix {
                self.found.push(Token { text: name, line });
            }
        } else if rest.starts_with("::") {
            self.next();
            self.found.push(Token { text: "::", line });
        } else if !c.is_whitespace() {
            let text = &rest[..c.len_utf8()];
            self.found.push(Token { text, line });
        }
        true
    }

    fn next(&mut self) -> Option<(usize, char)> {
        let next = self.chars.next();
        if let Some((_, '\n')) = next {
            self.line += 1;
        }
        next
    }

    /// The word that begins at `start`; its first character was read.
    fn word(&mut self, start: usize) -> &'a str {
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        while self
            .chars
            .peek()
            .is_some_and(|(at, _)| *at < start + length)
        {
            self.next();
        }
        &rest[..length]
    }

    /// Skips a block comment. Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0;
        let mut before = '/';
        while let Some((_, c)) = self.next() {
            match (before, c) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    before = c;
                    continue;
                }
            }
            before = ' ';
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips up to the first quote that is not escaped.
    fn text_literal(&mut self) {
        while let Some((_, c)) = self.next() {
            match c {
                '\\' => {
                    self.next();
                }
                '"' => return,
                _ => {}
            }
        }
    }

    /// Skips up to a quote with as many `#` as before the first one.
    fn raw_text_literal(&mut self, hashes: usize) {
        let end = format!("\"{}", "#".repeat(hashes));
        let mut opened = false;
        while let Some((at, _)) = self.next() {
            if self.text[at..].starts_with(&end) && std::mem::replace(&mut opened, true) {
                for _ in 0..hashes {
                    self.next();
                }
                return;
            }
            opened |= self.text[at..].starts_with('"');
        }
    }

    /// Skips a character, or a lifetime, which has no second quote.
    fn quote(&mut self) {
        let Some((_, first)) = self.next() else {
            return;
        };
        if first == '\\' {
            self.next();
            while self.next().is_some_and(|(_, c)| c != '\'') {}
        } else if self.chars.peek().is_some_and(|(_, c)| *c == '\'') {
            self.next();
        } else {
            while self
                .chars
                .peek()
                .is_some_and(|(_, c)| c.is_alphanumeric() || *c == '_')
            {
                self.next();
            }
        }
    }
}

/// The number of `#` if a raw literal (`r#"x"#`, `br"x"`) begins here.
fn raw_text(rest: &str) -> Option<usize> {
    let after = ["r", "br", "cr"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
        .filter(|after| after.starts_with(['#', '"']))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        tokens(text).iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_literals_and_lifetimes_are_no_tokens() {
        assert_eq!(texts("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(
            texts(r#"a("b\"c", 'd', '\'', '\u{1f}')"#),
            ["a", "(", ",", ",", ",", ")"]
        );
        assert_eq!(texts(r##"a r#"b"c"# d br"e" f"##), ["a", "d", "f"]);
        assert_eq!(texts("&'a str"), ["&", "str"]);
        assert_eq!(texts("1_000u32 x"), ["x"]);
    }

    #[test]
    fn a_path_has_its_line() {
        let path = tokens("//! A.\n\"\n\"\nuse a::b;");
        assert_eq!(
            path.iter().map(|token| token.line).collect::<Vec<_>>(),
            [4; 5]
        );
        assert_eq!(path[2].text, "::");
    }
}
