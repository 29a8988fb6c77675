//! Arguments in, exit code out.

use std::process::ExitCode;

/// Each message of HTTP takes a buffer of 8 KiB, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lb_agent::cli::main(std::env::args_os())
}
