//! Tests that cannot run on this machine.

use std::fs::File;
use std::io::Write as _;

/// Reports that the calling test is skipped. `cargo xtask test` counts the lines of the file in
/// `LB_TEST_SKIPPED`.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
    if let Some(path) = std::env::var_os("LB_TEST_SKIPPED") {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        writeln!(file, "{why}").unwrap();
    }
}
