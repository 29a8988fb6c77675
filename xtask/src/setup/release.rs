//! The released bpf-linker, a static program with an LLVM of its own: fetched, verified, installed.

use super::compiler::PURPOSE;
use crate::machine::Machine;
use crate::packages::Packages;
use crate::sh::{CommandExt, say};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The release that is fetched: the newest one with known SHA-256 sums. The sums are on the
/// release's page, and others have found the same after a download.
const VERSION: &str = "0.11.1";

/// The LLVM version inside the released program.
const LLVM: u32 = 23;

/// Architectures, and the SHA-256 sums of their archives.
const SUMS: [(&str, &str); 2] = [
    (
        "x86_64",
        "e058a6aecc9e65fa4c977b298a8e4b738424d7629769fd352eed409fb57e16e8",
    ),
    (
        "aarch64",
        "341ec1c595496877cae2b073544c2226d78a922739632b5732dbaa48507f1380",
    ),
];

fn url(arch: &str) -> String {
    format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{VERSION}/\
         bpf-linker-{arch}-unknown-linux-musl.tar.zst"
    )
}

/// The shell command with the same effect as [`install`].
pub(super) fn by_hand(arch: &str) -> String {
    format!(
        "curl -L {} | tar --zstd -xC ~/.cargo/bin bpf-linker",
        url(arch)
    )
}

/// Installs it in cargo's directory of programs, if it reads the output of LLVM `llvm`.
///
/// # Errors
/// Fails if it does not fit, cannot be fetched, or has another sum than the known one.
pub(super) fn install(machine: &Machine, packages: Option<&Packages>, llvm: u32) -> Result<()> {
    let arch = std::env::consts::ARCH;
    install_verified(machine, packages, llvm, sum_for(arch)?)
}

/// Installs it from an archive with this SHA-256 sum.
pub(super) fn install_verified(
    machine: &Machine,
    packages: Option<&Packages>,
    llvm: u32,
    sum: &str,
) -> Result<()> {
    ensure!(
        llvm <= LLVM,
        "release {VERSION} has LLVM {LLVM}, the compiler has {llvm}"
    );
    let bin = machine.cargo_home.join("bin");
    let directory = bin.join(format!(".bpf-linker-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let result = fetch_to(machine, packages, sum, &directory).and_then(|program| {
        let installed = bin.join("bpf-linker");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(&program, &installed))
            .with_context(|| format!("install {}", installed.display()))
    });
    let _ = fs::remove_dir_all(&directory);
    result
}

fn sum_for(arch: &str) -> Result<&'static str> {
    let found = SUMS.iter().find(|(name, _)| *name == arch);
    let (_, sum) = found.with_context(|| format!("there is none for {arch}"))?;
    Ok(sum)
}

/// Unpacks the program from an archive with the right sum.
fn fetch_to(
    machine: &Machine,
    packages: Option<&Packages>,
    sum: &str,
    directory: &Path,
) -> Result<PathBuf> {
    let url = url(std::env::consts::ARCH);
    say(format!(
        "fetching the released bpf-linker {VERSION} from {url}"
    ));
    let archive = directory.join("archive.tar.zst");
    download(machine, packages, &url, &archive)?;
    let found = sum_of(machine, &archive)?;
    ensure!(
        found == sum,
        "what was fetched is not the release that was checked (SHA-256 {found} instead of {sum}), \
         so it is not used"
    );
    need(machine, packages, "zstd")?;
    machine
        .command(need(machine, packages, "tar")?)
        .args(["--zstd", "--extract", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(directory)
        .arg("bpf-linker")
        .run_shown()?;
    Ok(directory.join("bpf-linker"))
}

fn download(machine: &Machine, packages: Option<&Packages>, url: &str, to: &Path) -> Result<()> {
    let wget = machine.find("wget");
    let mut command = match (machine.find("curl"), wget) {
        (None, Some(wget)) => {
            let mut command = machine.command(wget);
            command.args(["--no-verbose", "--tries=3", "--output-document"]);
            command
        }
        (curl, _) => {
            let curl = curl.map_or_else(|| need(machine, packages, "curl"), Ok)?;
            let mut command = machine.command(curl);
            command.args(["--fail", "--location", "--proto", "=https"]);
            command.args(["--silent", "--show-error", "--retry", "2", "--output"]);
            command
        }
    };
    command.arg(to).arg(url).run_shown()
}

fn sum_of(machine: &Machine, file: &Path) -> Result<String> {
    let Some(sha256sum) = machine.find("sha256sum") else {
        bail!("there is no sha256sum (of coreutils) to verify it by");
    };
    let text = machine.command(sha256sum).arg(file).read()?;
    let sum = text.split_whitespace().next().unwrap_or_default();
    Ok(sum.trim_start_matches('\\').to_owned())
}

/// A program, installed first if the distribution has it in a package of the same name.
fn need(machine: &Machine, packages: Option<&Packages>, program: &str) -> Result<PathBuf> {
    if let Some(found) = machine.find(program) {
        return Ok(found);
    }
    if let Some(packages) = packages {
        packages.ensure(&[program], PURPOSE)?;
    }
    machine
        .find(program)
        .with_context(|| format!("there is no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_architectures_have_a_whole_sum_and_others_are_refused() {
        for (arch, _) in SUMS {
            let sum = sum_for(arch).unwrap();
            assert_eq!(sum.len(), 64, "{arch}");
            assert!(sum.bytes().all(|byte| byte.is_ascii_hexdigit()), "{arch}");
        }
        assert!(
            sum_for("riscv64")
                .unwrap_err()
                .to_string()
                .contains("riscv64")
        );
    }
}
