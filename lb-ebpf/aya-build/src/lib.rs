//! In the place of aya-build, whose other parts run cargo and take a quarter of the time of a first build:
//! serde, syn and cargo_metadata, compiled for one line that build scripts print.

use std::env;

/// What build scripts return.
pub type Result<T> = std::result::Result<T, String>;

/// Processors that crates of aya tell apart.
const PROCESSORS: [&str; 9] = [
    "aarch64",
    "arm",
    "loongarch64",
    "mips",
    "mips64",
    "powerpc64",
    "riscv64",
    "s390x",
    "x86_64",
];

/// Makes the compiler know `bpf_target_arch`, which `cargo xtask` passes to it.
///
/// # Errors
/// Fails if it was not passed: the layouts of the kernel's structures depend on it.
pub fn emit_bpf_target_arch_cfg() -> Result<()> {
    const VARIABLE: &str = "CARGO_CFG_BPF_TARGET_ARCH";
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let values = PROCESSORS.map(|name| format!("\"{name}\"")).join(",");
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values({values}))");
    match env::var_os(VARIABLE) {
        Some(_) => Ok(()),
        None => Err("no `--cfg bpf_target_arch=…`: please build by `cargo xtask build`".to_owned()),
    }
}
