//! `cargo fuzz run engineio`: see `lb_http::fuzz::engineio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_http::fuzz::engineio(bytes));
