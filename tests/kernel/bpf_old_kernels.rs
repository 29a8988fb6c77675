//! The eBPF objects keep the rules of older kernels' verifiers, as far as that can be told without
//! those kernels. Neither root nor a kernel is needed; `cargo xtask test kernels` asks them.

use std::path::{Path, PathBuf};

use lb_tests::old_kernels::{self, Object};

/// `cargo xtask build` puts both objects there.
fn object(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf");
    let default = || directory.join(std::env::consts::ARCH).join("lb-ebpf.o");
    let main = std::env::var_os("LB_EBPF_OBJECT").map_or_else(default, PathBuf::from);
    main.with_file_name(name)
}

#[track_caller]
fn check(name: &str, programs: usize) {
    let path = object(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}: `cargo xtask build` makes it", path.display())
    });
    let object = Object::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(object.programs().len(), programs, "{:?}", object.programs());
    let objections = old_kernels::objections(&object);
    let lines: Vec<String> = objections.iter().map(|one| format!("  {one}\n")).collect();
    assert!(
        objections.is_empty(),
        "older kernels refuse {name} for:\n{}",
        lines.concat()
    );
}

#[test]
fn object_for_sockets_is_taken_by_older_kernels() {
    check("lb-ebpf.o", 10);
}

#[test]
fn object_for_packets_is_taken_by_older_kernels() {
    check("lb-packets.o", 4);
}

#[test]
fn object_of_decap_is_taken_by_older_kernels() {
    check("lb-decap.o", 1);
}
