//! A machine for tests, with stand-ins as programs: shell scripts that write down how they were
//! called.

use crate::machine::Machine;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A machine that has only the things that a test gives it.
pub(super) struct StandIn {
    _directory: tempfile::TempDir,
    root: PathBuf,
    pub(super) machine: Machine,
}

impl StandIn {
    /// A machine without any program, of a distribution as `/etc/os-release` tells it.
    pub(super) fn new(os_release: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        for name in ["bin", "etc", "cargo/bin", "rustup/toolchains"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("etc/os-release"), os_release).unwrap();
        let machine = Machine {
            search: vec![root.join("bin"), root.join("cargo/bin")],
            cargo: root.join("bin/cargo"),
            cargo_home: root.join("cargo"),
            rustup_home: root.join("rustup"),
            etc: root.join("etc"),
            root: true,
            vars: vec![("AT", root.clone().into())],
        };
        Self {
            _directory: directory,
            root,
            machine,
        }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// A program that notes its name and arguments, then runs `script`, for which `$AT` is the root
    /// of the machine.
    pub(super) fn program(&self, name: &str, script: &str) {
        let text = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\n\
             [ \"$1\" = -vV ] || echo \"{name} $*\" >> \"$AT/calls\"\n{script}\n"
        );
        install(&self.root.join("bin").join(name), &text);
    }

    /// Shell commands that make a rustc with its sources, of a release and with an LLVM.
    pub(super) fn make_rustc(&self, at: &str, release: &str, llvm: u32) -> String {
        format!(
            "mkdir -p \"$AT/{at}/bin\" \"$AT/{at}/lib/rustlib/src/rust/library/core\"\n\
             : > \"$AT/{at}/lib/rustlib/src/rust/library/core/Cargo.toml\"\n\
             cat > \"$AT/{at}/bin/rustc\" <<'END'\n\
             #!/bin/sh\n\
             case \"$1\" in\n\
             --print) echo \"$AT/{at}\";;\n\
             *) echo 'release: {release}'; echo 'LLVM version: {llvm}.1.0';;\n\
             esac\n\
             END\n\
             chmod +x \"$AT/{at}/bin/rustc\"\n"
        )
    }

    /// Shell commands that make a bpf-linker with a shared LLVM.
    pub(super) fn make_linker(llvm: u32) -> String {
        format!(
            "printf '\\0libLLVM.so.{llvm}.1\\0' > \"$AT/cargo/bin/bpf-linker\"\n\
             chmod +x \"$AT/cargo/bin/bpf-linker\"\n"
        )
    }

    /// The calls of the stand-ins, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.root.join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The calls that change something, without the questions.
    pub(super) fn changes(&self) -> Vec<String> {
        const QUESTIONS: [&str; 7] = [
            "apt-cache ",
            "dpkg-query ",
            "rpm ",
            "dnf --quiet info",
            "zypper --non-interactive --no-refresh info",
            "pacman -Si",
            "pacman -Q",
        ];
        let is_question = |call: &String| QUESTIONS.iter().any(|start| call.starts_with(start));
        let mut calls = self.calls();
        calls.retain(|call| !is_question(call) && !call.contains("llvm-config"));
        calls
    }
}

/// Writes a program by another process. A file that is open for writing cannot be run, and a child
/// of another test could hold this process's descriptor open.
fn install(file: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
        .arg(file)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    assert!(shell.wait().unwrap().success());
}
