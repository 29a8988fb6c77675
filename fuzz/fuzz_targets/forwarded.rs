//! `cargo fuzz run forwarded`: see `lb_agent::fuzz::forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_agent::fuzz::forwarded(bytes));
