//! Code in the eBPF objects that the verifiers of older kernels refuse, found without a kernel.
//!
//! The verifier of the running kernel says nothing about older ones. Each check here is one rule of
//! theirs that compilers break unnoticed: stack frames (`stack`), loops (`loops`) and map look-ups
//! (`nulls`). Passing all of them is no proof: `cargo xtask test kernels` asks the kernels themselves.

mod code;
mod lines;
mod loops;
mod nulls;
mod object;
mod stack;

pub use object::Object;
pub use stack::BUDGET;

use std::fmt;

/// Something that an older kernel refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The function, or a chain of them.
    pub function: String,
    /// The instruction's number within its function.
    pub instruction: Option<usize>,
    /// File and line, if the object has them.
    pub source: Option<String>,
    /// The refused code, the kernels that refuse it, and the remedy.
    pub what: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.function)?;
        if let Some(number) = self.instruction {
            write!(f, ", instruction {number}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Everything in the object that an older kernel refuses.
pub fn objections(object: &Object) -> Vec<Objection> {
    let mut found = stack::objections(object);
    for function in &object.functions {
        let at = |(instruction, what): (usize, String)| Objection {
            function: function.name.clone(),
            instruction: Some(instruction),
            source: object.source(function, instruction),
            what,
        };
        found.extend(loops::objections(function).into_iter().map(at));
        found.extend(nulls::objections(function).into_iter().map(at));
    }
    found
}
