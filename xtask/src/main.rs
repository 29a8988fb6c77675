//! Build, test and install commands.
fn main() {}
