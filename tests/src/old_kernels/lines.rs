//! File and line of an instruction, out of an object's `.BTF.ext`.

use std::collections::BTreeMap;
use std::path::Path;

use ::object::read::elf::ElfFile64;
use ::object::{Object as _, ObjectSection as _};

/// Lines by section and instruction.
#[derive(Default)]
pub(super) struct Lines(BTreeMap<(usize, usize), String>);

impl Lines {
    /// Reads them; `None` if the object has none, or others than we know.
    pub(super) fn parse(elf: &ElfFile64<'_>) -> Option<Self> {
        let section = |name: &str| elf.section_by_name(name)?.data().ok();
        let strings = Strings::parse(section(".BTF")?)?;
        let extension = section(".BTF.ext")?;
        // Both parts are counted from the end of the header.
        let header = word(extension, 4)? as usize;
        let (start, length) = (word(extension, 16)? as usize, word(extension, 20)? as usize);
        let part = extension.get(header + start..header + start + length)?;
        let record = word(part, 0)? as usize;
        let mut lines = BTreeMap::new();
        let mut at = 4;
        while at < part.len() {
            let name = strings.at(word(part, at)?)?;
            let index = elf.section_by_name(name)?.index().0;
            let count = word(part, at + 4)? as usize;
            for start in (at + 8..).step_by(record).take(count) {
                let instruction = word(part, start)? as usize / 8;
                let file = strings.at(word(part, start + 4)?)?;
                // Ten bits are the column.
                let line = word(part, start + 12)? >> 10;
                lines.insert((index, instruction), format!("{}:{line}", shorten(file)));
            }
            at += 8 + record * count;
        }
        Some(Self(lines))
    }

    /// The line of an instruction, or of one shortly before it.
    pub(super) fn find(&self, section: usize, instruction: usize) -> Option<String> {
        let mut before = self.0.range((section, 0)..=(section, instruction));
        before.next_back().map(|(_, line)| line.clone())
    }
}

/// The strings of `.BTF`.
struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    fn parse(section: &'a [u8]) -> Option<Self> {
        let header = word(section, 4)? as usize;
        let (start, length) = (word(section, 16)? as usize, word(section, 20)? as usize);
        section
            .get(header + start..header + start + length)
            .map(Self)
    }

    fn at(&self, offset: u32) -> Option<&'a str> {
        let rest = self.0.get(offset as usize..)?;
        std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A file of this workspace by its path from the root.
fn shorten(file: &str) -> &str {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let rest = root.and_then(|root| Path::new(file).strip_prefix(root).ok());
    rest.and_then(Path::to_str).unwrap_or(file)
}
