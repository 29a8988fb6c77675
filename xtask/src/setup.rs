//! Installing what the build needs, where we know how to: on Debian and its kin.

use crate::debian;
use crate::sh::{self, CommandExt, find_program, is_root, say};
use crate::toolchain::{self, Compiler, Toolchain};
use crate::{build, host};
use anyhow::{Context, Result, bail};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;

/// The LLVM versions that bpf-linker 0.13 has a feature for.
const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;

/// `cargo xtask setup`
pub(crate) fn setup() -> Result<()> {
    let toolchain = ensure_toolchain()?;
    say(format!("eBPF: {toolchain}"));
    if is_root() {
        host::mount_bpffs()?;
    }
    say(format!(
        "all there; the eBPF object goes to {}",
        build::object().display()
    ));
    Ok(())
}

/// The toolchain for eBPF, installed first where it is missing and can be.
pub(crate) fn ensure_toolchain() -> Result<Toolchain> {
    if let Some(found) = toolchain::find() {
        return Ok(found);
    }
    if !debian::is_debian() {
        bail!("{}", instructions("this is not a Debian system"));
    }
    let (llvm, packages) = packages()?;
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    debian::ensure(&names, "compiling eBPF programs")?;
    install_linker(llvm)?;
    toolchain::find().with_context(|| instructions("what Debian has does not fit together"))
}

/// The packages for a compiler and for building bpf-linker, and their LLVM version.
fn packages() -> Result<(u32, Vec<String>)> {
    let present = toolchain::compilers().find(|compiler| can_link(compiler.llvm));
    let (llvm, mut packages) = match present {
        Some(Compiler { llvm, .. }) => (llvm, Vec::new()),
        None => {
            let llvm = debian_llvm().context(instructions("this Debian has no fitting LLVM"))?;
            (
                llvm,
                vec!["rustc-web".to_owned(), "rust-web-src".to_owned()],
            )
        }
    };
    packages.extend([format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]);
    if find_program("c++").is_none() {
        packages.push("g++".to_owned());
    }
    Ok((llvm, packages))
}

/// Whether Debian has the LLVM of a compiler for bpf-linker to link with.
fn can_link(llvm: u32) -> bool {
    LINKER_LLVMS.contains(&llvm) && debian::is_known(&format!("llvm-{llvm}-dev"))
}

/// The LLVM of Debian's newest compiler (`rustc-web`, kept up to date for browsers).
fn debian_llvm() -> Option<u32> {
    debian::refresh_for("rustc-web").ok()?;
    debian::depends_on("rust-web-llvm")
        .iter()
        .find_map(|name| name.strip_prefix("llvm-")?.parse().ok())
        .filter(|&llvm| can_link(llvm))
}

fn install_linker(llvm: u32) -> Result<()> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    say("installing bpf-linker from crates.io (about a minute)");
    Command::new(sh::cargo())
        // Not the profile and flags of this workspace.
        .current_dir("/")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        // bpf-linker's own build script looks for libLLVM here.
        .env("LLVM_PREFIX", &prefix)
        .args([
            "install",
            "bpf-linker",
            "--version",
            "^0.13",
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .run_shown()
}

/// What to do where nothing can be installed for the user.
fn instructions(why: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "no toolchain for eBPF found, and {why}; these two commands mend it:\n  \
         rustup toolchain install nightly --component rust-src\n  \
         curl -L https://github.com/aya-rs/bpf-linker/releases/latest/download/\
         bpf-linker-{arch}-unknown-linux-musl.tar.zst | tar --zstd -xC ~/.cargo/bin"
    )
}
