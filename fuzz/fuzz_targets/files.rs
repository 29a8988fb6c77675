//! `cargo fuzz run files`: see `lb_http::fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_http::fuzz::files(bytes));
