//! Loops: kernels before 6.7 accept only those that a jump closes.
//!
//! Their `check_cfg` walks the code depth first. It refuses an edge back to an instruction on the
//! current path, unless the edge is a jump: "back-edge from insn A to B". A loop is refused if its head
//! follows the instruction that leads to it by falling through.

use super::code::{Function, Kind};

/// The instructions that fall into the head of a loop.
pub(super) fn objections(function: &Function) -> Vec<(usize, String)> {
    let mut walk = Walk {
        function,
        states: vec![State::New; function.code.len()],
        found: Vec::new(),
    };
    walk.run();
    let what = |(from, to): (usize, usize)| {
        let text = format!(
            "falls into the head of a loop, instruction {to}: kernels before 6.7 refuse that \
             (\"back-edge\"); a loop with a fixed count of rounds helps"
        );
        (from, text)
    };
    walk.found.into_iter().map(what).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// On the way from the first instruction to the current one.
    Open,
    Done,
}

struct Walk<'a> {
    function: &'a Function,
    states: Vec<State>,
    found: Vec<(usize, usize)>,
}

impl Walk<'_> {
    fn run(&mut self) {
        if self.states.is_empty() {
            return;
        }
        self.states[0] = State::Open;
        // Instructions with their successors that are still to be visited; last first.
        let mut way = vec![(0, self.edges(0))];
        while let Some((from, edges)) = way.last_mut() {
            let from = *from;
            let Some((to, is_jump)) = edges.pop() else {
                self.states[from] = State::Done;
                way.pop();
                continue;
            };
            match self.states[to] {
                State::New => {
                    self.states[to] = State::Open;
                    way.push((to, self.edges(to)));
                }
                State::Open if !is_jump => self.found.push((from, to)),
                State::Open | State::Done => {}
            }
        }
    }

    /// The successors of an instruction, and whether a jump leads there; in the kernel's order from the
    /// last on.
    fn edges(&self, at: usize) -> Vec<(usize, bool)> {
        let next = self.function.successors(at);
        // Both ways of a branch count as jumps.
        let is_jump = self.function.code[at].kind() == Kind::Branch;
        let target = next.target.map(|target| (target, true));
        let behind = next.next.map(|behind| (behind, is_jump));
        target.into_iter().chain(behind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::assembler::{add, exit, function, if_not_zero, if_zero, jump, set};
    use super::*;

    #[test]
    fn loop_closed_by_a_jump_passes() {
        let back = [set(1, 3), add(1, -1), if_not_zero(1, -2), exit()];
        assert_eq!(objections(&function("f", &back)), []);
        let around = [set(1, 3), if_zero(1, 2), add(1, -1), jump(-3), exit()];
        assert_eq!(objections(&function("f", &around)), []);
    }

    #[test]
    fn loop_closed_by_falling_into_its_head_is_refused() {
        // The walk reaches 3 first, and from there 1 and 2, which falls into 3.
        let code = [jump(2), set(2, 0), add(1, -1), if_not_zero(1, -3), exit()];
        let found = objections(&function("f", &code));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, 2);
        assert!(found[0].1.contains("instruction 3"), "{found:?}");
    }

    #[test]
    fn code_that_joins_again_is_no_loop() {
        let code = [if_zero(1, 1), set(2, 0), add(2, 1), exit()];
        assert_eq!(objections(&function("f", &code)), []);
    }
}
