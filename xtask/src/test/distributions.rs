//! `cargo xtask test distributions`: fresh machines are set up by the README's commands, in clean
//! Debian systems with the lists of packages of their first day. The kernel is this one.
//!
//! The tests of packages and services on other distributions, `tests/operations/distro_*.rs`, get their
//! systems and packages from here, too.

use super::binfmt;
use super::count::Count;
use super::roots::Root;
use crate::build::{self, Profile};
use crate::dist;
use crate::machine::Machine;
use crate::setup;
use crate::sh::{self, CommandExt, say};
use crate::target::{Arch, Target};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The source of a cargo that is new enough.
#[derive(Clone, Copy)]
enum Cargo {
    /// rustup, which is copied from this machine.
    Rustup,
    /// A package of that name.
    Package(&'static str),
}

/// Machines to set up, by their releases.
const MACHINES: [(&str, Cargo); 3] = [
    // The release's own cargo is too old, and so is the first one of its `cargo-web`.
    ("bookworm", Cargo::Rustup),
    ("trixie", Cargo::Package("cargo-web")),
    ("sid", Cargo::Package("cargo")),
];

/// Starts a backend and the agent, and asks the backend through the agent: in a network of its own.
const SERVE: &str = r#"
perl -MIO::Socket::INET -e '
    $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:5000", Listen => 5) or die $!;
    while ($c = $s->accept) { <$c>; print $c "fresh\n"; close $c }' &
backend=$!
cargo xtask run -- --config /tmp/lb-agent.toml >/tmp/lb-agent.log 2>&1 &
agent=$!
trap 'kill $backend $agent; cat /tmp/lb-agent.log; \
    target/release/lb-agent stop --purge --config /tmp/lb-agent.toml' EXIT
until grep -q ready /tmp/lb-agent.log; do
    kill -0 $agent
    sleep 1
done
answer=$(perl -MIO::Socket::INET -e '
    $s = IO::Socket::INET->new("127.0.0.1:8080") or die $!; print $s "?\n"; print <$s>')
echo "answer: $answer"
[ "$answer" = fresh ]
target/release/lb-agent status | grep -w socket
"#;

/// The variables that `distro_*.rs` need.
pub(super) fn environment() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut variables = vec![
        ("LB_TEST_ROOT_BOOKWORM", fresh("bookworm")?),
        ("LB_TEST_ROOT_TRIXIE", fresh("trixie")?),
        ("LB_TEST_ROOT_SID", fresh("sid")?),
        (
            "LB_TEST_ROOT_SYSV",
            with(
                "sysv",
                "trixie",
                "sysvinit-core,sysv-rc",
                "usr/sbin/insserv",
            )?,
        ),
        (
            "LB_TEST_ROOT_OPENRC",
            with("openrc", "trixie", "openrc", "usr/sbin/openrc-run")?,
        ),
        ("LB_TEST_ROOT_RPM", with_systemd("rpm", "trixie", "rpm")?),
        (
            "LB_TEST_ROOT_TRIXIE_SYSTEMD",
            with_systemd("trixie-systemd", "trixie", "iproute2")?,
        ),
        (
            "LB_TEST_ROOT_SID_SYSTEMD",
            with_systemd("sid-systemd", "sid", "iproute2")?,
        ),
    ];
    let (profile, target) = (Profile::Release, Target::own());
    dist::files(profile, target)?;
    variables.extend([
        ("LB_TEST_ARCHIVE", dist::archive("0.1.0", target)?),
        ("LB_TEST_DEB", dist::deb("0.1.0", profile, target)?),
        ("LB_TEST_NEWER_DEB", dist::deb("0.1.1", profile, target)?),
        ("LB_TEST_RPM", dist::rpm("0.1.0", target)?),
        ("LB_TEST_NEWER_RPM", dist::rpm("0.1.1", target)?),
    ]);
    variables.extend(for_arm()?);
    Ok(variables)
}

/// A system of another processor, and the package for it.
fn for_arm() -> Result<[(&'static str, PathBuf); 2]> {
    let target = Target::of(Some(Arch::Arm64));
    setup::ensure_emulator(target)?;
    binfmt::ensure(target)?;
    let root = Root {
        name: "arm64",
        release: "trixie",
        target,
        include: "passwd",
        proof: "usr/sbin/useradd",
    };
    build::build_for(Profile::Release, target)?;
    dist::files(Profile::Release, target)?;
    Ok([
        ("LB_TEST_ROOT_ARM64", root.ensure()?),
        (
            "LB_TEST_ARM64_DEB",
            dist::deb("0.1.0", Profile::Release, target)?,
        ),
    ])
}

fn fresh(release: &str) -> Result<PathBuf> {
    let proof = "usr/sbin/update-ca-certificates";
    with(release, release, "ca-certificates", proof)
}

/// A root with systemd, which may be its first process.
fn with_systemd(name: &str, release: &str, more: &str) -> Result<PathBuf> {
    let include = format!("{more},systemd");
    with(name, release, &include, "usr/lib/systemd/systemd")
}

fn with(name: &str, release: &str, include: &str, proof: &str) -> Result<PathBuf> {
    let root = Root {
        name,
        release,
        target: Target::own(),
        include,
        proof,
    };
    root.ensure()
}

/// Sets up the machines with a word of `filter` in their names, which are like `fresh_RELEASE`.
pub(super) fn set_up_machines(filter: &[String]) -> Result<Count> {
    let mut count = Count::default();
    for (release, cargo) in MACHINES {
        let name = format!("fresh_{release}");
        if !filter.is_empty() && !filter.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match set_up(release, cargo) {
            Ok(()) => {
                println!("test {name} ... ok");
                count.passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED: {error:#}");
                count.failed += 1;
            }
        }
    }
    Ok(count)
}

fn set_up(release: &str, cargo: Cargo) -> Result<()> {
    let system = System::copy_of(&fresh(release)?, release)?;
    system.put_sources()?;
    match cargo {
        Cargo::Rustup => system.put_rustup()?,
        Cargo::Package(name) => system.step(
            "cargo",
            &format!("apt-get -q install -y --no-install-recommends {name}"),
        )?,
    }
    system.step("setup", "cargo xtask setup")?;
    system.step("build", "cargo xtask build")?;
    system.write(
        "tmp/lb-agent.toml",
        &format!(
            "[agent]\npin_dir = '/sys/fs/bpf/lbt-{}-fresh'\nmax_clients = 4096\n\
             [[service]]\nname = 'web'\nlisten = ['0.0.0.0:8080']\n\
             backends = ['127.0.0.1:5000']\n",
            std::process::id()
        ),
    )?;
    system.step("run", SERVE)
}

/// A copy of a fresh system, removed when dropped.
struct System {
    name: String,
    dir: PathBuf,
}

/// The home of its user, and the checkout.
const HOME: &str = "srv/user";
const CHECKOUT: &str = "srv/user/lb-agent";

impl System {
    fn copy_of(template: &Path, release: &str) -> Result<Self> {
        let id = std::process::id();
        let dir = template.with_file_name(format!("fresh-{release}-{id}"));
        let _ = fs::remove_dir_all(&dir);
        let system = Self {
            name: release.to_owned(),
            dir,
        };
        copy(template, &system.dir)?;
        Ok(system)
    }

    /// The files that are, or would be, in the repository.
    fn put_sources(&self) -> Result<()> {
        let to = self.dir.join(CHECKOUT);
        fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        let list = "git ls-files -z --cached --others --exclude-standard \
                    | tar --create --null --files-from=- | tar --extract --directory \"$0\"";
        Command::new("sh")
            .current_dir(sh::workspace())
            .args(["-ec", list])
            .arg(&to)
            .run_shown()
    }

    /// rustup with its default toolchain, as this machine has it.
    fn put_rustup(&self) -> Result<()> {
        let machine = Machine::this();
        let toolchain = Command::new("rustc").args(["--print", "sysroot"]).read()?;
        let toolchain = Path::new(toolchain.trim());
        if !toolchain.starts_with(&machine.rustup_home) {
            bail!("there is no rustup on this machine to copy");
        }
        let name = toolchain.file_name().context("a toolchain has no name")?;
        let toolchains = self.dir.join(HOME).join(".rustup/toolchains");
        fs::create_dir_all(&toolchains).context("make a directory for a toolchain")?;
        copy(toolchain, &toolchains.join(name))?;
        let settings = format!("{HOME}/.rustup/settings.toml");
        let default = format!(
            "version = \"12\"\ndefault_toolchain = \"{}\"\n",
            name.to_string_lossy()
        );
        self.write(&settings, &default)?;
        let bin = self.dir.join(HOME).join(".cargo/bin");
        fs::create_dir_all(&bin).context("make a directory for cargo")?;
        for name in ["rustup", "cargo", "rustc"] {
            copy(&machine.cargo_home.join("bin").join(name), &bin.join(name))?;
        }
        // The least software beside rustup: a linker.
        self.step(
            "gcc",
            "apt-get -q install -y --no-install-recommends gcc libc6-dev",
        )
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.dir.join(path);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Runs a command of a user in the checkout, shows its output, and says how long it took.
    fn step(&self, what: &str, script: &str) -> Result<()> {
        say(format!("{}: {what}", self.name));
        let start = Instant::now();
        let status = self.command(script, what == "run").status()?;
        let seconds = start.elapsed().as_secs();
        say(format!("{}: {what} took {seconds} s", self.name));
        if !status.success() {
            bail!("{what} failed ({status})");
        }
        Ok(())
    }

    /// A root shell in the system, with this kernel's file systems, and with a network of its own
    /// if asked for.
    fn command(&self, script: &str, own_network: bool) -> Command {
        const ENTER: &str = "for dir in proc sys dev; do mount --rbind /$dir \"$0/$dir\"; done; \
                             root=\"$0\"; exec chroot \"$root\" sh -ec \"$1\"";
        let mut command = Command::new("unshare");
        command.arg("--mount");
        let mut enter = ENTER.to_owned();
        if own_network {
            command.arg("--net");
            enter = format!("ip link set lo up; {ENTER}");
        }
        command.args(["sh", "-ec", &enter]).arg(&self.dir);
        command.arg(format!("cd /{CHECKOUT}; {script}"));
        command.env_clear();
        command.env("HOME", format!("/{HOME}"));
        let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.env("PATH", format!("/{HOME}/.cargo/bin:{usual}"));
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).args([from, to]);
    command.run_shown()
}
