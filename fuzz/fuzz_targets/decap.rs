//! `cargo fuzz run decap`: see `lb_common::fuzz::decap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_common::fuzz::decap(bytes));
