//! Stack: the frames of all functions that call each other share 512 bytes.
//!
//! Kernels before 6.8 round each frame up to 32 bytes, later ones to 16 (commit e6ac5a2,
//! `check_max_stack_depth`).

use std::collections::BTreeSet;

use super::code::{FRAME, Function, Instruction, Kind};
use super::{Object, Objection};

/// The most that a chain of calls may use, in bytes. The limit is 512; the rest is reserve for another
/// compiler or a small change.
pub const BUDGET: u32 = 512 - 64;

/// Unit to which kernels before 6.8 round up a frame, in bytes.
const UNIT: u32 = 32;

/// Programs whose deepest chain of calls exceeds the budget, each with that chain.
pub(super) fn objections(object: &Object) -> Vec<Objection> {
    let entries = object.functions.iter().filter(|one| one.is_entry);
    entries
        .filter_map(|entry| objection(object, entry))
        .collect()
}

fn objection(object: &Object, entry: &Function) -> Option<Objection> {
    let mut above = BTreeSet::new();
    let (depth, chain) = deepest(object, entry, &mut above);
    (depth > BUDGET).then(|| Objection {
        function: chain.join(" > "),
        instruction: None,
        source: None,
        what: format!(
            "{depth} bytes of stack, of 512 on kernels before 6.8 and a budget of {BUDGET}; \
             a function that keeps less on its stack helps, or one that is called later"
        ),
    })
}

/// The deepest stack use of a function with its callees, and the names of that chain with their frames.
fn deepest<'a>(
    object: &'a Object,
    function: &'a Function,
    above: &mut BTreeSet<&'a str>,
) -> (u32, Vec<String>) {
    let own = frame(function);
    let mut deepest_below = (0, Vec::new());
    // A recursion has no end; other rules of the verifier refuse it.
    if above.insert(&function.name) {
        let called: BTreeSet<&String> = function.calls.values().collect();
        for callee in called.into_iter().filter_map(|name| object.function(name)) {
            let below = deepest(object, callee, above);
            if below.0 > deepest_below.0 {
                deepest_below = below;
            }
        }
        above.remove(function.name.as_str());
    }
    let (depth, mut chain) = deepest_below;
    chain.insert(0, format!("{} {own}", function.name));
    (own.max(1).next_multiple_of(UNIT) + depth, chain)
}

/// The bytes of the stack that a function uses: the deepest that it reads, writes or points to.
fn frame(function: &Function) -> u32 {
    let mut pointers = Pointers::default();
    let deepest = function
        .instructions()
        .filter_map(|(_, one)| pointers.follow(one))
        .min();
    deepest.map_or(0, |depth| depth.min(0).unsigned_abs() as u32)
}

/// Registers that point into the frame, as their distance from its end.
#[derive(Default)]
struct Pointers([Option<i64>; 16]);

impl Pointers {
    fn of(&self, register: u8) -> Option<i64> {
        if register == FRAME {
            Some(0)
        } else {
            self.0[usize::from(register)]
        }
    }

    /// Applies an instruction; returns the offset in the frame that it reads, writes or points to, if
    /// any.
    fn follow(&mut self, one: &Instruction) -> Option<i64> {
        let at = |base: Option<i64>| Some(base? + i64::from(one.offset));
        let (touched, result) = match one.kind() {
            Kind::Store { .. } => return at(self.of(one.dst)),
            Kind::Jump | Kind::Branch | Kind::Exit => return None,
            Kind::Load => (at(self.of(one.src)), None),
            Kind::Copy => (None, self.of(one.src)),
            Kind::AddImmediate(value) => {
                let pointer = self.of(one.dst).map(|from| from + value);
                (pointer, pointer)
            }
            Kind::CallHelper(_) | Kind::CallFunction => {
                self.0[..6].fill(None);
                return None;
            }
            Kind::AddRegister | Kind::Compute | Kind::LoadImmediate => (None, None),
        };
        self.0[usize::from(one.dst)] = result;
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::assembler::{
        add, call, call_function, copy, exit, function, load, set, store,
    };
    use super::*;

    fn calling(name: &str, callee: Option<&str>, frame: i16) -> Function {
        let mut made = function(name, &[store(FRAME, -frame, 1), call_function(), exit()]);
        made.calls
            .extend(callee.map(|callee| (1, callee.to_owned())));
        made.is_entry = name == "program";
        made
    }

    fn chain(frames: [i16; 3]) -> Object {
        Object::of(vec![
            calling("program", Some("middle"), frames[0]),
            calling("middle", Some("last"), frames[1]),
            calling("last", None, frames[2]),
        ])
    }

    #[test]
    fn chain_of_calls_within_the_budget_passes() {
        // 32, 160 and 256 bytes when they are rounded up.
        assert_eq!(objections(&chain([8, 136, 256])), []);
    }

    #[test]
    fn chain_of_calls_past_the_budget_is_told_with_its_frames() {
        // 441 bytes, which a later kernel rounds to 448, and an older one to 480.
        let found = objections(&chain([33, 136, 272]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].function, "program 33 > middle 136 > last 272");
        assert!(found[0].what.starts_with("512 bytes"), "{}", found[0]);
    }

    #[test]
    fn frame_reaches_to_the_deepest_access_or_pointer() {
        let frame_of = |code: &[Instruction]| frame(&function("f", code));
        assert_eq!(frame_of(&[set(0, 0), exit()]), 0);
        assert_eq!(frame_of(&[load(1, FRAME, -24), exit()]), 24);
        // A pointer that is handed to a helper, and one that writes are made through.
        assert_eq!(
            frame_of(&[copy(2, FRAME), add(2, -40), call(1), exit()]),
            40
        );
        assert_eq!(frame_of(&[copy(2, FRAME), store(2, -48, 1), exit()]), 48);
        // Registers that a call may have changed hold no pointer any more.
        let after_call = [copy(2, FRAME), call(1), store(2, -48, 1), exit()];
        assert_eq!(frame_of(&after_call), 0);
    }

    #[test]
    fn recursion_ends_the_search() {
        let object = Object::of(vec![calling("program", Some("program"), 8)]);
        assert_eq!(objections(&object), []);
    }
}
