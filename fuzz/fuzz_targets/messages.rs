//! `cargo fuzz run messages`: see `lb_http::fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_http::fuzz::messages(bytes));
