//! `cargo fuzz run decide`: see `lb_common::fuzz::decide`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_common::fuzz::decide(bytes));
