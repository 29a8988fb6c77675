//! `cargo fuzz run engineio`: see `lb_agent::fuzz::engineio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_agent::fuzz::engineio(bytes));
