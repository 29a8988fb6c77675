//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_agent::cli::main(std::env::args_os())
}
