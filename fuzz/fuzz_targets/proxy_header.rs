//! `cargo fuzz run proxy_header`: see `lb_http::fuzz::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_http::fuzz::proxy_header(bytes));
