//! Puts the eBPF objects beside the code that embeds it.
//!
//! They come from `cargo xtask build`, which makes them for one processor each: layouts of the kernel's
//! and the order of memory accesses go by it. Where there is none, an empty one takes its place: the
//! crate can then be checked and tested as usual, and the agent says "built without eBPF".

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=LB_EBPF_OBJECT");
    println!("cargo:rerun-if-changed=build.rs");
    let object = object();
    embed(&object, "lb-ebpf.o");
    for name in ["lb-packets.o", "lb-decap.o"] {
        embed(&object.with_file_name(name), name);
    }
}

/// Puts the content of `object`, or nothing, into a file called `name`.
fn embed(object: &Path, name: &str) {
    let content = fs::read(object).unwrap_or_default();
    if content.is_empty() {
        println!(
            "cargo:warning=built without eBPF, as {} is missing: `cargo xtask build` makes it",
            object.display()
        );
        watch_directory(object);
    } else {
        println!("cargo:rerun-if-changed={}", object.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join(name), content).expect("write the object to OUT_DIR");
}

/// Path of the object, which may not exist.
fn object() -> PathBuf {
    if let Some(path) = env::var_os("LB_EBPF_OBJECT") {
        return PathBuf::from(path);
    }
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let processor = env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo");
    crate_dir.join(format!("../target/bpf/{processor}/lb-ebpf.o"))
}

/// Cargo runs us every time if the file that we ask it to watch does not exist; the directory tells
/// as well when the object appears.
fn watch_directory(object: &Path) {
    if let Some(dir) = object.parent()
        && fs::create_dir_all(dir).is_ok()
    {
        println!("cargo:rerun-if-changed={}", dir.display());
    }
}
