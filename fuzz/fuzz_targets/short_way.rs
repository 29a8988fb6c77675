//! `cargo fuzz run short_way`: see `lb_agent::fuzz::short_way`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_agent::fuzz::short_way(bytes));
