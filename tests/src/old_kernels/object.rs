//! The functions of an eBPF object file.

use std::collections::BTreeMap;

use ::object::read::elf::ElfFile64;
use ::object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

use super::code::{Function, Instruction, Kind};
use super::lines::Lines;

/// Section of the functions that programs call; programs are in sections of their own.
const SHARED: &str = ".text";

/// An eBPF object.
#[derive(Default)]
pub struct Object {
    pub(super) functions: Vec<Function>,
    lines: Lines,
}

type Elf<'a> = ElfFile64<'a>;

impl Object {
    /// Reads an object file. The error says which part of it is malformed.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let elf = Elf::parse(file).map_err(|error| format!("no ELF object: {error}"))?;
        let mut functions = Vec::new();
        for section in elf.sections().filter(|one| one.kind() == SectionKind::Text) {
            functions.extend(functions_of(&elf, section.index())?);
        }
        if functions.is_empty() {
            return Err("there are no functions in it".to_owned());
        }
        resolve_calls(&elf, &mut functions)?;
        let lines = Lines::parse(&elf).unwrap_or_default();
        Ok(Self { functions, lines })
    }

    /// Names of the programs.
    pub fn programs(&self) -> Vec<&str> {
        let entries = self.functions.iter().filter(|one| one.is_entry);
        entries.map(|one| one.name.as_str()).collect()
    }

    pub(super) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|one| one.name == name)
    }

    /// File and line of an instruction.
    pub(super) fn source(&self, function: &Function, instruction: usize) -> Option<String> {
        self.lines
            .find(function.section, function.start + instruction)
    }

    /// An object of functions by hand.
    #[cfg(test)]
    pub(super) fn of(functions: Vec<Function>) -> Self {
        Self {
            functions,
            lines: Lines::default(),
        }
    }
}

fn functions_of(elf: &Elf<'_>, index: SectionIndex) -> Result<Vec<Function>, String> {
    let text = |error: ::object::Error| error.to_string();
    let section = elf.section_by_index(index).map_err(text)?;
    let is_entry = section.name().map_err(text)? != SHARED;
    let (slots, []) = section.data().map_err(text)?.as_chunks::<8>() else {
        return Err("a section of code ends within an instruction".to_owned());
    };
    let symbols = elf.symbols().filter(|one| {
        one.section_index() == Some(index) && one.kind() == SymbolKind::Text && one.size() > 0
    });
    symbols
        .map(|symbol| {
            let name = symbol.name().map_err(text)?.to_owned();
            let (start, size) = (symbol.address() as usize / 8, symbol.size() as usize / 8);
            let slots = slots.get(start..start + size);
            let slots = slots.ok_or_else(|| format!("{name} is not within its section"))?;
            Ok(Function {
                name,
                section: index.0,
                start,
                is_entry,
                code: slots.iter().copied().map(Instruction::decode).collect(),
                calls: BTreeMap::new(),
            })
        })
        .collect()
}

/// Fills in which functions are called: by relocations, and within a section by distance.
fn resolve_calls(elf: &Elf<'_>, functions: &mut [Function]) -> Result<(), String> {
    let starts: BTreeMap<(usize, usize), String> = functions
        .iter()
        .map(|one| ((one.section, one.start), one.name.clone()))
        .collect();
    let relocations = relocations(elf);
    for function in functions {
        let calls = function
            .instructions()
            .filter(|(_, one)| one.kind() == Kind::CallFunction);
        let mut found = BTreeMap::new();
        for (at, call) in calls {
            let place = (function.section, function.start + at);
            let base = relocations
                .get(&place)
                .copied()
                .unwrap_or((place.0, place.1 + 1));
            // The immediate value counts from behind the call; with a relocation, from one before
            // the symbol.
            let shift = call.immediate as isize + isize::from(relocations.contains_key(&place));
            let target = base
                .1
                .checked_add_signed(shift)
                .map(|start| (base.0, start));
            let name = target
                .and_then(|target| starts.get(&target))
                .ok_or_else(|| {
                    format!("{}: the call at {at} leads to no function", function.name)
                })?;
            found.insert(at, name.clone());
        }
        function.calls = found;
    }
    Ok(())
}

/// Targets of the relocations of code, by section and instruction: another section and instruction.
fn relocations(elf: &Elf<'_>) -> BTreeMap<(usize, usize), (usize, usize)> {
    let mut found = BTreeMap::new();
    for section in elf.sections().filter(|one| one.kind() == SectionKind::Text) {
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let Ok(symbol) = elf.symbol_by_index(index) else {
                continue;
            };
            if let Some(target) = symbol.section_index() {
                let place = (section.index().0, offset as usize / 8);
                found.insert(place, (target.0, symbol.address() as usize / 8));
            }
        }
    }
    found
}
