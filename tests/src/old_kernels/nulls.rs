//! Map look-ups: kernels before 6.14 take no arithmetic on a result before it is compared with null.
//!
//! "pointer arithmetic on map_value_or_null prohibited, null-check it first". Compilers know that an
//! address within a null pointer is never used, and may compute it ahead of the test.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{FRAME, Function, Instruction, Kind};

/// Helpers that return a pointer or null: `map_lookup_elem`, `sk_storage_get`, `ringbuf_reserve`,
/// `inode_storage_get`, `per_cpu_ptr`, `task_storage_get`, `map_lookup_percpu_elem`.
const MAY_RETURN_NULL: [i32; 7] = [1, 107, 131, 145, 153, 156, 195];

/// Additions to pointers that may be null.
pub(super) fn objections(function: &Function) -> Vec<(usize, String)> {
    let mut found = BTreeSet::new();
    if function.code.is_empty() {
        return Vec::new();
    }
    let mut states: Vec<Option<State>> = vec![None; function.code.len()];
    states[0] = Some(State::default());
    let mut open = BTreeSet::from([0]);
    while let Some(at) = open.pop_first() {
        let mut state = states[at].clone().expect("a state before it is open");
        let one = function.code[at];
        if state.is_added_to(&one) {
            found.insert(at);
        }
        state.follow(at, &one);
        let next = function.successors(at);
        for to in next.next.into_iter().chain(next.target) {
            let changed = match &mut states[to] {
                Some(known) => known.join(&state),
                empty => {
                    *empty = Some(state.clone());
                    true
                }
            };
            if changed {
                open.insert(to);
            }
        }
    }
    let what = "adds to the result of a look-up before comparing it with null: kernels before 6.14 \
                refuse that; hiding the pointer from the compiler until it is tested helps";
    found.into_iter().map(|at| (at, what.to_owned())).collect()
}

/// The calls that a pointer may come from; none if it is not null, or no such pointer.
type Calls = BTreeSet<usize>;

/// The pointers that may be null, before an instruction.
#[derive(Clone, Default, PartialEq, Eq)]
struct State {
    registers: [Calls; 11],
    /// By their place on the stack.
    slots: BTreeMap<i16, Calls>,
}

impl State {
    fn register(&mut self, number: u8) -> &mut Calls {
        &mut self.registers[usize::from(number.min(FRAME))]
    }

    fn is_added_to(&mut self, one: &Instruction) -> bool {
        match one.kind() {
            Kind::AddImmediate(value) => value != 0 && !self.register(one.dst).is_empty(),
            Kind::AddRegister => {
                !self.register(one.dst).is_empty() || !self.register(one.src).is_empty()
            }
            _ => false,
        }
    }

    /// Applies the effect of an instruction to registers and stack.
    fn follow(&mut self, at: usize, one: &Instruction) {
        match one.kind() {
            Kind::Copy => *self.register(one.dst) = self.register(one.src).clone(),
            Kind::Load if one.src == FRAME => {
                let slot = self.slots.get(&one.offset).cloned();
                *self.register(one.dst) = slot.unwrap_or_default();
            }
            Kind::Store { register } if one.dst == FRAME => {
                self.slots.remove(&one.offset);
                if register && !self.register(one.src).is_empty() {
                    let calls = self.register(one.src).clone();
                    self.slots.insert(one.offset, calls);
                }
            }
            Kind::CallHelper(_) | Kind::CallFunction => {
                self.registers[..6].fill(Calls::new());
                if matches!(one.kind(), Kind::CallHelper(helper) if MAY_RETURN_NULL.contains(&helper))
                {
                    self.register(0).insert(at);
                }
            }
            // On both branches it is then known whether the pointer and its copies are null.
            Kind::Branch if one.compares_with_zero() => {
                let calls = self.register(one.dst).clone();
                self.forget(&calls);
            }
            Kind::Store { .. } | Kind::Jump | Kind::Branch | Kind::Exit => {}
            Kind::AddImmediate(0) => {}
            Kind::Load
            | Kind::AddImmediate(_)
            | Kind::AddRegister
            | Kind::Compute
            | Kind::LoadImmediate => self.register(one.dst).clear(),
        }
    }

    /// Forgets a pointer and its copies, which come from the same calls.
    fn forget(&mut self, calls: &Calls) {
        for register in &mut self.registers {
            if register == calls {
                register.clear();
            }
        }
        self.slots.retain(|_, slot| slot != calls);
    }

    /// Merges the state of another path to the same instruction; returns whether it adds anything new.
    fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (register, theirs) in self.registers.iter_mut().zip(&other.registers) {
            register.extend(theirs);
        }
        for (slot, theirs) in &other.slots {
            self.slots.entry(*slot).or_default().extend(theirs);
        }
        *self != before
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::assembler::{
        add, add_register, call, copy, exit, function, if_not_zero, if_zero, load, set, store,
    };
    use super::*;

    const LOOK_UP: i32 = 1;
    const NOTHING: [usize; 0] = [];

    fn found(code: &[Instruction]) -> Vec<usize> {
        let found = objections(&function("f", code));
        found.into_iter().map(|(at, _)| at).collect()
    }

    #[test]
    fn addition_behind_the_test_passes() {
        let branch = [call(LOOK_UP), if_zero(0, 1), add(0, 8), exit()];
        assert_eq!(found(&branch), NOTHING);
        let other_way = [call(LOOK_UP), if_not_zero(0, 1), exit(), add(0, 8), exit()];
        assert_eq!(found(&other_way), NOTHING);
    }

    #[test]
    fn addition_before_the_test_is_refused() {
        let code = [
            call(LOOK_UP),
            copy(6, 0),
            add(6, 8),
            if_zero(0, 1),
            load(0, 6, 0),
            exit(),
        ];
        assert_eq!(found(&code), [2]);
        let by_register = [call(LOOK_UP), set(1, 8), add_register(1, 0), exit()];
        assert_eq!(found(&by_register), [2]);
    }

    #[test]
    fn test_of_one_copy_tells_of_all() {
        let code = [
            call(LOOK_UP),
            copy(6, 0),
            store(FRAME, -8, 0),
            if_zero(6, 3),
            load(1, FRAME, -8),
            add(1, 8),
            add(0, 8),
            exit(),
        ];
        assert_eq!(found(&code), NOTHING);
    }

    #[test]
    fn pointer_that_was_put_on_the_stack_is_not_forgotten() {
        let code = [
            call(LOOK_UP),
            store(FRAME, -8, 0),
            load(1, FRAME, -8),
            add(1, 8),
            exit(),
        ];
        assert_eq!(found(&code), [3]);
    }

    #[test]
    fn pointer_that_is_tested_on_one_way_only_may_still_be_null() {
        // if r7 == 0, the test is left out.
        let code = [
            call(LOOK_UP),
            if_zero(7, 1),
            if_zero(0, 1),
            add(0, 8),
            exit(),
        ];
        assert_eq!(found(&code), [3]);
    }

    #[test]
    fn test_of_another_look_up_tells_nothing() {
        let code = [
            call(LOOK_UP),
            copy(6, 0),
            call(LOOK_UP),
            if_zero(0, 1),
            add(6, 8),
            exit(),
        ];
        assert_eq!(found(&code), [4]);
    }

    #[test]
    fn results_of_other_helpers_are_added_to() {
        assert_eq!(found(&[call(7), add(0, 8), exit()]), NOTHING);
    }
}
