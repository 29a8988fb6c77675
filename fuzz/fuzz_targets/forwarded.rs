//! `cargo fuzz run forwarded`: see `lb_http::fuzz::forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_http::fuzz::forwarded(bytes));
