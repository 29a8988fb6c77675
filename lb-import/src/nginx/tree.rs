//! The syntax of nginx: words, blocks, `include`.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::ImportError;
use crate::report::Origin;

/// A directive with its arguments and, if it has one, its block.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) origin: Origin,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    /// Whether some rule has taken it.
    taken: Cell<bool>,
}

impl Directive {
    /// Argument `index`, or an empty text.
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Marks it as carried over.
    pub(super) fn take(&self) {
        self.taken.set(true);
    }

    /// Whether it is carried over.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.get()
    }

    /// The directives of its block.
    pub(super) fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Name and arguments, at most some 60 bytes of them.
    pub(super) fn shown(&self) -> String {
        let mut text = self.name.clone();
        for arg in &self.args {
            text.push(' ');
            text.push_str(arg);
            if text.len() > 60 {
                let end = text.floor_char_boundary(57);
                text.truncate(end);
                text.push_str("...");
                break;
            }
        }
        text
    }
}

/// Deepest `include` within files and deepest block.
const DEEPEST: usize = 32;

/// The directives of the file `path` and of those that it includes.
pub(super) fn read(path: &Path) -> Result<Vec<Directive>, ImportError> {
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let bases = prefix(path).into_iter().chain([beside]).collect();
    Reader { bases }.file(path, 0)
}

/// The directory of `nginx.conf` at or above the file `path`: relative names in it are looked up there.
pub(super) fn prefix(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut above = path.ancestors().skip(1);
    let found = above.find(|directory| directory.join("nginx.conf").is_file());
    found.map(Path::to_owned)
}

struct Reader {
    /// Relative names of `include` are looked up in the first of these that has such a file.
    bases: Vec<PathBuf>,
}

/// A word, or one of `;`, `{` and `}` outside of quotes.
#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

impl Reader {
    fn file(&self, path: &Path, depth: usize) -> Result<Vec<Directive>, ImportError> {
        let bytes =
            fs::read(path).map_err(|error| ImportError(format!("{}: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&bytes);
        let file = Rc::new(path.to_owned());
        let tokens = tokens(&text, &file)?;
        let mut tokens = tokens.into_iter();
        let directives = self.block(&mut tokens, &file, depth)?;
        Ok(directives)
    }

    /// Directives up to the end of the block or, with `depth` that of the file, of the tokens.
    fn block(
        &self,
        tokens: &mut std::vec::IntoIter<(Token, usize)>,
        file: &Rc<PathBuf>,
        depth: usize,
    ) -> Result<Vec<Directive>, ImportError> {
        let blocks = Blocks {
            reader: self,
            file,
            depth,
        };
        let mut open: Vec<Directive> = Vec::new();
        let mut levels: Vec<Vec<Directive>> = vec![Vec::new()];
        let mut words: Vec<(String, usize)> = Vec::new();
        for (token, line) in tokens {
            match token {
                Token::Word(word) => words.push((word, line)),
                Token::End => {
                    let found = blocks.simple(&mut words, line)?;
                    if let Some(level) = levels.last_mut() {
                        level.extend(found);
                    }
                }
                Token::Open => {
                    open.push(blocks.directive(&mut words, line)?);
                    if open.len() > DEEPEST {
                        return Err(blocks.error(line, "blocks are nested too deeply"));
                    }
                    levels.push(Vec::new());
                }
                Token::Close => {
                    let closed = open.pop().zip(levels.pop());
                    let Some((mut directive, inside)) = closed.filter(|_| words.is_empty()) else {
                        return Err(blocks.error(line, "\"}\" is unexpected"));
                    };
                    directive.block = Some(inside);
                    if let Some(level) = levels.last_mut() {
                        level.push(directive);
                    }
                }
            }
        }
        match (open.pop(), words.first()) {
            (Some(unclosed), _) => {
                let line = unclosed.origin.line;
                Err(blocks.error(line, &format!("{} has no closing \"}}\"", unclosed.name)))
            }
            (None, Some((word, line))) => {
                Err(blocks.error(*line, &format!("{word} has no closing \";\"")))
            }
            (None, None) => Ok(levels.pop().unwrap_or_default()),
        }
    }

    /// The files that `pattern` of an `include` stands for, in the order of their names; `None` where the file is not there.
    fn included(&self, pattern: &str) -> std::io::Result<Option<Vec<PathBuf>>> {
        let paths = self.bases.iter().map(|base| base.join(pattern));
        if !pattern.contains(['*', '?']) {
            return Ok(paths
                .into_iter()
                .find(|path| path.is_file())
                .map(|path| vec![path]));
        }
        for path in paths {
            let files = matching(&path)?;
            if !files.is_empty() {
                return Ok(Some(files));
            }
        }
        Ok(Some(Vec::new()))
    }
}

/// The files that the path with a pattern as its last part stands for.
fn matching(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut files = Vec::new();
    // A pattern that fits nothing is no mistake in nginx.
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(files);
    };
    for entry in entries {
        let entry = entry?;
        let found = entry.file_name();
        if fits(name.as_bytes(), found.to_string_lossy().as_bytes()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The directives of one file.
struct Blocks<'a> {
    reader: &'a Reader,
    file: &'a Rc<PathBuf>,
    depth: usize,
}

impl Blocks<'_> {
    fn error(&self, line: usize, problem: &str) -> ImportError {
        ImportError(format!("{}:{line}: {problem}", self.file.display()))
    }

    fn directive(
        &self,
        words: &mut Vec<(String, usize)>,
        line: usize,
    ) -> Result<Directive, ImportError> {
        let mut words = std::mem::take(words).into_iter();
        let Some((name, line)) = words.next() else {
            return Err(self.error(line, "a directive without a name"));
        };
        Ok(Directive {
            origin: Origin {
                file: Rc::clone(self.file),
                line,
            },
            name,
            args: words.map(|(word, _)| word).collect(),
            block: None,
            taken: Cell::new(false),
        })
    }

    /// The directive of `words`; for `include` the directives of its files.
    fn simple(
        &self,
        words: &mut Vec<(String, usize)>,
        line: usize,
    ) -> Result<Vec<Directive>, ImportError> {
        let directive = self.directive(words, line)?;
        // Types of media are known here without the file, which is not there on every host.
        let is_followed = directive.name == "include" && !directive.arg(0).ends_with("mime.types");
        if !is_followed {
            return Ok(vec![directive]);
        }
        if self.depth >= DEEPEST {
            return Err(self.error(line, "include is nested too deeply"));
        }
        let files = self.reader.included(directive.arg(0));
        let files = files.map_err(|error| self.error(line, &format!("include: {error}")))?;
        let Some(files) = files else {
            return Ok(vec![directive]);
        };
        let mut all = Vec::new();
        for file in files {
            let read = self.reader.file(&file, self.depth + 1);
            all.extend(read.map_err(|error| self.error(line, &format!("include: {}", error.0)))?);
        }
        Ok(all)
    }
}

/// Whether the name fits the pattern with `*` and `?`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            fits(&pattern[1..], name) || (!name.is_empty() && fits(pattern, &name[1..]))
        }
        (Some(b'?'), Some(_)) => fits(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) => a == b && fits(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// The tokens of `text`, each with its line.
fn tokens(text: &str, file: &Path) -> Result<Vec<(Token, usize)>, ImportError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(char) = chars.next() {
        match char {
            '\n' => line += 1,
            ' ' | '\t' | '\r' | '\u{feff}' => {}
            '#' => while chars.next_if(|char| *char != '\n').is_some() {},
            ';' => tokens.push((Token::End, line)),
            '{' => tokens.push((Token::Open, line)),
            '}' => tokens.push((Token::Close, line)),
            quote @ ('"' | '\'') => {
                let start = line;
                let word = quoted(&mut chars, quote, &mut line);
                let word = word.ok_or_else(|| {
                    ImportError(format!("{}:{start}: a quote is not closed", file.display()))
                })?;
                tokens.push((Token::Word(word), start));
            }
            first => tokens.push((Token::Word(plain(&mut chars, first)), line)),
        }
    }
    Ok(tokens)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// A word in quotes, of which the first is read already.
fn quoted(chars: &mut Chars<'_>, quote: char, line: &mut usize) -> Option<String> {
    let mut word = String::new();
    loop {
        match chars.next()? {
            char if char == quote => return Some(word),
            '\\' => escaped(&mut word, chars.next()?),
            char => {
                *line += usize::from(char == '\n');
                word.push(char);
            }
        }
    }
}

/// A word without quotes. A `{` belongs to it after a dollar sign, as in `${name}`.
fn plain(chars: &mut Chars<'_>, first: char) -> String {
    let mut word = String::new();
    let mut next = Some(first);
    let mut in_variable = false;
    while let Some(char) = next {
        match char {
            '\\' => {
                if let Some(after) = chars.next() {
                    escaped(&mut word, after);
                }
            }
            '{' => {
                in_variable = true;
                word.push(char);
            }
            '}' => {
                in_variable = false;
                word.push(char);
            }
            _ => word.push(char),
        }
        let begins_variable = word.ends_with('$');
        next = chars.next_if(|next| match next {
            ';' => false,
            '{' => begins_variable,
            '}' => in_variable,
            char => !char.is_ascii_whitespace(),
        });
    }
    word
}

/// A character after a backslash. The backslash stays where it is one of a regular expression.
fn escaped(word: &mut String, char: char) {
    match char {
        '"' | '\'' | '\\' => word.push(char),
        't' => word.push('\t'),
        'r' => word.push('\r'),
        'n' => word.push('\n'),
        _ => word.extend(['\\', char]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = tokens(text, Path::new("f")).unwrap();
        tokens
            .into_iter()
            .map(|(token, line)| match token {
                Token::Word(word) => format!("{line} {word}"),
                other => format!("{line} {other:?}"),
            })
            .collect()
    }

    #[test]
    fn words_end_where_those_of_nginx_do() {
        assert_eq!(
            words("a b; # c\nd \"e f\" 'g\\'h' ${i}j{}"),
            [
                "1 a", "1 b", "1 End", "2 d", "2 e f", "2 g'h", "2 ${i}j", "2 Open", "2 Close"
            ]
        );
        assert_eq!(
            words("location ~ \\.php$ {"),
            ["1 location", "1 ~", "1 \\.php$", "1 Open"]
        );
        assert_eq!(words("a#b c;"), ["1 a#b", "1 c", "1 End"]);
    }

    #[test]
    fn mistakes_have_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n.conf");
        for (text, line, problem) in [
            ("server {\n  listen 80;\n", 1, "server has no closing \"}\""),
            ("}\n", 1, "\"}\" is unexpected"),
            ("\nlisten 80", 2, "listen has no closing \";\""),
            ("a \"b;\n", 1, "a quote is not closed"),
            (";", 1, "a directive without a name"),
        ] {
            fs::write(&path, text).unwrap();
            let told = read(&path).unwrap_err().0;
            let expected = format!("{}:{line}: {problem}", path.display());
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn include_is_followed_beside_the_first_file() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("sites");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("b.conf"), "user b;").unwrap();
        fs::write(inside.join("a.conf"), "user a;").unwrap();
        fs::write(inside.join("c.old"), "user c;").unwrap();
        let path = directory.path().join("nginx.conf");
        fs::write(
            &path,
            "include sites/*.conf; include none/*; include mime.types;",
        )
        .unwrap();
        let names: Vec<String> = read(&path).unwrap().iter().map(Directive::shown).collect();
        assert_eq!(names, ["user a", "user b", "include mime.types"]);
        fs::write(&path, "\ninclude missing.conf;").unwrap();
        let kept: Vec<String> = read(&path).unwrap().iter().map(Directive::shown).collect();
        assert_eq!(kept, ["include missing.conf"]);
        let site = inside.join("site");
        fs::write(&site, "include sites/a.conf;").unwrap();
        let names: Vec<String> = read(&site).unwrap().iter().map(Directive::shown).collect();
        assert_eq!(names, ["user a"]);
        fs::write(&path, "include nginx.conf;").unwrap();
        let told = read(&path).unwrap_err().0;
        assert!(told.contains("too deeply"), "{told}");
    }
}
