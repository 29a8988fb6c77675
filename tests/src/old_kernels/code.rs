//! BPF instructions and functions (RFC 9669), as far as the checks look at them.

use std::collections::BTreeMap;

/// Number of the frame pointer register.
pub(super) const FRAME: u8 = 10;

const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;

const JA: u8 = 0x00;
const JEQ: u8 = 0x10;
const JNE: u8 = 0x50;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const ADD: u8 = 0x00;
const SUB: u8 = 0x10;
const MOV: u8 = 0xb0;

/// `src` of a call of another function of the object.
const PSEUDO_CALL: u8 = 1;

/// One slot of eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) dst: u8,
    pub(super) src: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// A function of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) section: usize,
    /// The first instruction's number within the section.
    pub(super) start: usize,
    /// A program's first function.
    pub(super) is_entry: bool,
    pub(super) code: Vec<Instruction>,
    /// Names of called functions, by the call's number.
    pub(super) calls: BTreeMap<usize, String>,
}

/// The effect of an instruction, for the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads memory at `src` plus `offset` into `dst`.
    Load,
    /// Writes memory at `dst` plus `offset`; from `src`, unless it is an immediate value.
    Store {
        register: bool,
    },
    /// `dst = src`
    Copy,
    /// `dst += immediate` or `dst -= immediate`, as a signed number to add.
    AddImmediate(i64),
    /// `dst += src` or `dst -= src`
    AddRegister,
    /// Any other change of `dst`.
    Compute,
    /// Takes two slots; sets `dst`.
    LoadImmediate,
    /// Goes to the target.
    Jump,
    /// Goes to the target or falls through.
    Branch,
    CallHelper(i32),
    CallFunction,
    Exit,
}

impl Instruction {
    pub(super) fn decode(bytes: [u8; 8]) -> Self {
        let [code, registers, o0, o1, immediate @ ..] = bytes;
        Self {
            code,
            dst: registers & 0xf,
            src: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes(immediate),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        let (class, operation) = (self.code & 7, self.code & 0xf0);
        let of_register = self.code & 8 != 0;
        match class {
            LD => Kind::LoadImmediate,
            LDX => Kind::Load,
            ST => Kind::Store { register: false },
            STX => Kind::Store { register: true },
            JMP if operation == CALL && self.src == PSEUDO_CALL => Kind::CallFunction,
            JMP if operation == CALL => Kind::CallHelper(self.immediate),
            JMP if operation == EXIT => Kind::Exit,
            JMP | JMP32 if operation == JA => Kind::Jump,
            JMP | JMP32 => Kind::Branch,
            // With an offset it is a load with sign extension (MOVSX).
            ALU64 if operation == MOV && of_register && self.offset == 0 => Kind::Copy,
            ALU64 if matches!(operation, ADD | SUB) && of_register => Kind::AddRegister,
            ALU64 if operation == ADD => Kind::AddImmediate(self.immediate.into()),
            ALU64 if operation == SUB => Kind::AddImmediate(-i64::from(self.immediate)),
            _ => Kind::Compute,
        }
    }

    /// Whether it is a branch by `dst == 0` or `dst != 0`, in 64 bits.
    pub(super) fn compares_with_zero(&self) -> bool {
        matches!(self.code & 0xf0, JEQ | JNE) && self.code & 0xf == JMP && self.immediate == 0
    }

    /// How far the target of a jump is from the next instruction.
    fn distance(&self) -> isize {
        if self.code & 7 == JMP32 && self.code & 0xf0 == JA {
            self.immediate as isize
        } else {
            self.offset.into()
        }
    }
}

/// The possible successors of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Successors {
    /// The instruction behind it.
    pub(super) next: Option<usize>,
    /// The target of a jump.
    pub(super) target: Option<usize>,
}

impl Function {
    pub(super) fn successors(&self, at: usize) -> Successors {
        let instruction = self.code[at];
        let kind = instruction.kind();
        let inside = |at: usize| (at < self.code.len()).then_some(at);
        let width = if kind == Kind::LoadImmediate { 2 } else { 1 };
        let next = || inside(at + width);
        let target = || inside((at + 1).checked_add_signed(instruction.distance())?);
        match kind {
            Kind::Exit => Successors::default(),
            Kind::Jump => Successors {
                next: None,
                target: target(),
            },
            Kind::Branch => Successors {
                next: next(),
                target: target(),
            },
            _ => Successors {
                next: next(),
                target: None,
            },
        }
    }

    /// Its instructions, without the second slots of wide ones.
    pub(super) fn instructions(&self) -> impl Iterator<Item = (usize, &Instruction)> {
        let mut is_second = false;
        self.code.iter().enumerate().filter(move |(_, one)| {
            let skip = std::mem::take(&mut is_second);
            is_second = !skip && one.kind() == Kind::LoadImmediate;
            !skip
        })
    }
}

/// Instructions by hand, for the tests of the checks.
#[cfg(test)]
pub(super) mod assembler {
    use super::*;

    fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction {
            code,
            dst,
            src,
            offset,
            immediate,
        }
    }

    /// `dst = src`
    pub(in super::super) fn copy(dst: u8, src: u8) -> Instruction {
        instruction(0xbf, dst, src, 0, 0)
    }

    /// `dst = value`
    pub(in super::super) fn set(dst: u8, value: i32) -> Instruction {
        instruction(0xb7, dst, 0, 0, value)
    }

    /// `dst += value`
    pub(in super::super) fn add(dst: u8, value: i32) -> Instruction {
        instruction(0x07, dst, 0, 0, value)
    }

    /// `dst += src`
    pub(in super::super) fn add_register(dst: u8, src: u8) -> Instruction {
        instruction(0x0f, dst, src, 0, 0)
    }

    /// `dst = *(u64 *)(src + offset)`
    pub(in super::super) fn load(dst: u8, src: u8, offset: i16) -> Instruction {
        instruction(0x79, dst, src, offset, 0)
    }

    /// `*(u64 *)(dst + offset) = src`
    pub(in super::super) fn store(dst: u8, offset: i16, src: u8) -> Instruction {
        instruction(0x7b, dst, src, offset, 0)
    }

    /// `if dst == 0 goto +distance`
    pub(in super::super) fn if_zero(dst: u8, distance: i16) -> Instruction {
        instruction(0x15, dst, 0, distance, 0)
    }

    /// `if dst != 0 goto +distance`
    pub(in super::super) fn if_not_zero(dst: u8, distance: i16) -> Instruction {
        instruction(0x55, dst, 0, distance, 0)
    }

    /// `goto +distance`
    pub(in super::super) fn jump(distance: i16) -> Instruction {
        instruction(0x05, 0, 0, distance, 0)
    }

    /// `call helper`
    pub(in super::super) fn call(helper: i32) -> Instruction {
        instruction(0x85, 0, 0, 0, helper)
    }

    /// A call of a function of the object.
    pub(in super::super) fn call_function() -> Instruction {
        instruction(0x85, 0, PSEUDO_CALL, 0, -1)
    }

    /// `exit`
    pub(in super::super) fn exit() -> Instruction {
        instruction(0x95, 0, 0, 0, 0)
    }

    /// A function of these instructions.
    pub(in super::super) fn function(name: &str, code: &[Instruction]) -> Function {
        Function {
            name: name.to_owned(),
            code: code.to_vec(),
            ..Function::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::assembler::{call, exit, function, if_zero, jump, set};
    use super::*;

    #[test]
    fn instructions_are_decoded_as_the_kernel_lays_them_out() {
        // r1 = *(u64 *)(r10 - 8)
        let load = Instruction::decode([0x79, 0xa1, 0xf8, 0xff, 0, 0, 0, 0]);
        assert_eq!(load, assembler::load(1, FRAME, -8));
        assert_eq!(load.kind(), Kind::Load);
        // r2 -= 3
        let subtract = Instruction::decode([0x17, 0x02, 0, 0, 3, 0, 0, 0]);
        assert_eq!(subtract.kind(), Kind::AddImmediate(-3));
        // w2 = w3, which is no copy of a pointer
        let half = Instruction::decode([0xbc, 0x32, 0, 0, 0, 0, 0, 0]);
        assert_eq!(half.kind(), Kind::Compute);
        // gotol -2
        let far = Instruction::decode([0x06, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(far.kind(), Kind::Jump);
        assert_eq!(far.distance(), -2);
    }

    #[test]
    fn wide_instructions_are_followed_by_what_is_behind_their_second_slot() {
        let wide = Instruction::decode([0x18, 1, 0, 0, 7, 0, 0, 0]);
        let second = Instruction::default();
        let code = [wide, second, if_zero(1, 1), jump(-4), call(1), exit()];
        let function = function("f", &code);
        let next = |at| function.successors(at).next;
        assert_eq!(next(0), Some(2));
        assert_eq!(function.successors(2).target, Some(4));
        assert_eq!(function.successors(3).target, Some(0));
        assert_eq!((next(3), next(5)), (None, None));
        let seen: Vec<usize> = function.instructions().map(|(at, _)| at).collect();
        assert_eq!(seen, [0, 2, 3, 4, 5]);
        assert!(if_zero(1, 1).compares_with_zero() && !set(1, 0).compares_with_zero());
    }
}
