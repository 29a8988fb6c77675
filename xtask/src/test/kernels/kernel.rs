//! A kernel of Debian's, made ready to be booted: its image, and an archive of the modules that the
//! tests need. Kept in `target/kernels`, so that it is fetched once.

use super::arch::Arch;
use super::cpio::Archive;
use super::mirror::Mirror;
use crate::sh::{CommandExt, say};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules for the tests' networks and for the agent. The dependencies of each module come with it.
/// Modules that a kernel has built in, or lacks, are left out.
const MODULES: [&str; 19] = [
    "8021q",
    "act_bpf",
    "bridge",
    "cls_bpf",
    "dummy",
    "fou",
    "fou6",
    "inet_diag",
    "ip6_tunnel",
    "ipip",
    "netlink_diag",
    "sch_fq",
    "sch_fq_codel",
    "sch_ingress",
    "sit",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "veth",
];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// The series as in `6.12` and `6.12-16k`.
    pub(super) series: String,
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

/// Makes kernels ready. Kept ones are not fetched again. If all are kept, apt is not asked.
pub(super) fn ensure_all(dir: &Path, arch: Arch, series: &[&str]) -> Result<Vec<Kernel>> {
    let kernels: Vec<Kernel> = series
        .iter()
        .map(|series| Kernel::at(&dir.join(arch.debian).join(series), series))
        .collect();
    let missing: Vec<&Kernel> = kernels.iter().filter(|kernel| !kernel.is_ready()).collect();
    if !missing.is_empty() {
        let series: Vec<&str> = missing
            .iter()
            .map(|kernel| kernel.series.as_str())
            .collect();
        let mirror = Mirror::open(dir, arch, &series)?;
        missing
            .iter()
            .try_for_each(|kernel| kernel.fetch(&mirror))?;
    }
    Ok(kernels)
}

impl Kernel {
    fn at(dir: &Path, series: &str) -> Self {
        Self {
            series: series.to_owned(),
            image: dir.join("vmlinuz"),
            modules: dir.join("modules.cpio"),
        }
    }

    /// Whether all files are there; the image is written last.
    fn is_ready(&self) -> bool {
        self.image.exists() && self.modules.exists()
    }

    fn fetch(&self, mirror: &Mirror) -> Result<()> {
        let package = mirror.kernel(&self.series)?;
        say(format!(
            "fetching {package} for the tests; nothing is installed"
        ));
        let dir = self.image.with_file_name("");
        let (unpacked, picked) = (dir.join("unpacked"), dir.join("picked"));
        mirror.unpack(&package, &unpacked)?;
        let tree = module_tree(&unpacked)?;
        let release = tree.file_name().unwrap_or_default().to_string_lossy();
        let _ = fs::remove_dir_all(&picked);
        pick_modules(&unpacked, &tree, &picked, &release)?;
        let mut archive = Archive::new(Vec::new());
        archive.tree("usr/lib/modules", &picked.join("lib/modules"))?;
        write(&self.modules, &archive.finish()?)?;
        let places = [
            unpacked.join(format!("boot/vmlinuz-{release}")),
            tree.join("vmlinuz"),
        ];
        let image = places.iter().find(|image| image.exists());
        let image = image.with_context(|| format!("{package} holds no kernel"))?;
        let content = fs::read(image).with_context(|| format!("read {}", image.display()))?;
        let temporary = self.image.with_extension("new");
        write(&temporary, &content)?;
        fs::rename(&temporary, &self.image).context("put the kernel in its place")?;
        [unpacked, picked].iter().try_for_each(|done| {
            fs::remove_dir_all(done).with_context(|| format!("remove {}", done.display()))
        })
    }
}

/// The directory of modules in a kernel's package: below `lib`, or `usr/lib`.
fn module_tree(unpacked: &Path) -> Result<PathBuf> {
    let place = unpacked.join("lib/modules");
    if !place.exists() {
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).context("link lib")?;
    }
    let mut entries = fs::read_dir(&place).with_context(|| format!("read {}", place.display()))?;
    let first = entries
        .next()
        .context("the package of a kernel holds no modules")?;
    Ok(first.context("read a directory")?.path())
}

/// Copies the wanted modules, and their dependencies, to `picked/lib/modules`.
fn pick_modules(unpacked: &Path, tree: &Path, picked: &Path, release: &str) -> Result<()> {
    depmod(unpacked, release)?;
    let dependencies = fs::read_to_string(tree.join("modules.dep")).context("read modules.dep")?;
    let to = picked.join("lib/modules").join(release);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    for file in wanted(&dependencies) {
        let content = module(&tree.join(file))?;
        let plain = file.trim_end_matches(".xz").trim_end_matches(".zst");
        let copy = to.join(plain);
        fs::create_dir_all(copy.with_file_name("")).context("make a directory for modules")?;
        write(&copy, &content)?;
    }
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        if let Ok(content) = fs::read(tree.join(list)) {
            write(&to.join(list), &content)?;
        }
    }
    depmod(picked, release)
}

/// Writes the dependencies of modules, and the names by which the kernel asks for them.
fn depmod(base: &Path, release: &str) -> Result<()> {
    Command::new(super::find("depmod")?)
        .arg("-b")
        .arg(base)
        .arg(release)
        .read()
        .map(drop)
}

/// The files of the wanted modules and of those that they need, out of `modules.dep`.
fn wanted(dependencies: &str) -> BTreeSet<&str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let ours = lines.filter(|(file, _)| MODULES.contains(&name(file).as_str()));
    ours.flat_map(|(file, needed)| std::iter::once(file).chain(needed.split_whitespace()))
        .collect()
}

/// A module's name; the name of its file may have dashes instead.
fn name(file: &str) -> String {
    let stem = file
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .split('.')
        .next();
    stem.unwrap_or_default().replace('-', "_")
}

/// A module as the kernel takes it, after decompression.
fn module(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("read {}", file.display())),
    };
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} cannot read {}",
        file.display()
    );
    Ok(output.stdout)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let dependencies = "kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/tunnel4.ko.xz\n\
                            kernel/net/ipv4/tunnel4.ko.xz:\nkernel/drivers/net/veth.ko:\n\
                            kernel/net/sched/sch-ingress.ko.zst:\nkernel/fs/ext4.ko:\n";
        let found: Vec<&str> = wanted(dependencies).into_iter().collect();
        let expected = [
            "kernel/drivers/net/veth.ko",
            "kernel/net/ipv4/ipip.ko.xz",
            "kernel/net/ipv4/tunnel4.ko.xz",
            "kernel/net/sched/sch-ingress.ko.zst",
        ];
        assert_eq!(found, expected);
    }
}
