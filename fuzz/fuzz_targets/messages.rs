//! `cargo fuzz run messages`: see `lb_agent::fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_agent::fuzz::messages(bytes));
