//! `cargo xtask install`: the steps of the archive's installer, with the programs built here.

use crate::build::{self, Profile};
use crate::dist;
use crate::sh::{self, CommandExt};
use crate::target::Target;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo xtask install`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install below this directory, for an image or a package; implies --no-start
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Do not enable and start the service
    #[arg(long)]
    no_start: bool,
    /// Install the programs that are already built
    #[arg(long)]
    no_build: bool,
}

/// Builds as the calling user, then installs, which usually takes root.
pub(crate) fn install(args: &Args) -> Result<()> {
    if !args.no_build {
        build::build(Profile::Dist)?;
        dist::files(Profile::Dist, Target::own())?;
    }
    let installer = dist::directory().join("files/install.sh");
    if !installer.exists() {
        bail!("nothing was built yet; run this without --no-build first");
    }
    if args.root == Path::new("/") && !sh::is_root() {
        bail!(
            "it is built; installing it takes root, please run\n  sudo {} install --no-build{}",
            std::env::current_exe().context("find myself")?.display(),
            if args.no_start { " --no-start" } else { "" }
        );
    }
    let mut command = Command::new("sh");
    command.arg(installer).arg("--root").arg(&args.root);
    if args.no_start {
        command.arg("--no-start");
    }
    command.run_shown()
}

#[cfg(test)]
mod tests {
    //! Runs the installer itself, below a directory: no root is needed for that.

    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Output;

    /// An unpacked archive with a stand-in as its program, and a directory to install below.
    struct Archive {
        dir: tempfile::TempDir,
    }

    impl Archive {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let archive = dir.path().join("archive");
            for name in ["archive/man", "archive/completions", "root/etc/init.d"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            let packaging = sh::workspace().join("packaging");
            for entry in packaging.read_dir().unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), archive.join(entry.file_name())).unwrap();
                }
            }
            let this = Self { dir };
            this.write("archive/architecture", std::env::consts::ARCH);
            this.write("archive/lb-agent", "one");
            this.write("archive/man/lb-agent.1", "page");
            this.write("archive/config.schema.json", "{}");
            for name in ["lb-agent.bash", "_lb-agent", "lb-agent.fish"] {
                this.write(&format!("archive/completions/{name}"), "");
            }
            this
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        fn install(&self, arguments: &[&str]) -> Output {
            let mut command = Command::new("sh");
            command.arg(self.path("archive/install.sh")).args(arguments);
            command.arg("--root").arg(self.path("root"));
            command.output().unwrap()
        }

        #[track_caller]
        fn installs(&self, arguments: &[&str]) {
            let output = self.install(arguments);
            assert!(output.status.success(), "{output:?}");
        }

        #[track_caller]
        fn refuses(&self, arguments: &[&str], why: &str) {
            let output = self.install(arguments);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && text.contains(why), "{text}");
        }
    }

    const PROGRAM: &str = "root/usr/local/bin/lb-agent";
    const CONFIG: &str = "root/etc/lb-agent/config.toml";

    #[test]
    fn an_upgrade_replaces_the_program_and_keeps_the_configuration() {
        let archive = Archive::new();
        archive.installs(&[]);
        assert_eq!(archive.read(CONFIG), archive.read("archive/config.toml"));
        archive.write(CONFIG, "theirs");
        archive.write("archive/lb-agent", "two");
        archive.installs(&[]);
        assert_eq!(archive.read(CONFIG), "theirs");
        assert_eq!(archive.read(PROGRAM), "two");
        let mode = fs::metadata(archive.path(PROGRAM))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn each_init_system_gets_its_own_service() {
        let service = "root/etc/init.d/lb-agent";
        let archive = Archive::new();
        archive.installs(&[]);
        assert_eq!(archive.read(service), archive.read("archive/lb-agent.sysv"));

        archive.write("root/sbin/openrc-run", "");
        let program = archive.path("root/sbin/openrc-run");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        archive.installs(&[]);
        assert_eq!(
            archive.read(service),
            archive.read("archive/lb-agent.openrc")
        );

        let archive = Archive::new();
        archive.write("root/usr/lib/systemd/systemd", "");
        let program = archive.path("root/usr/lib/systemd/systemd");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        archive.installs(&[]);
        assert!(!archive.path(service).exists());
        let unit = archive.read("root/etc/systemd/system/lb-agent.service");
        assert_eq!(unit, archive.read("archive/lb-agent.service"));
    }

    #[test]
    fn uninstalling_keeps_the_configuration_and_purging_does_not() {
        let archive = Archive::new();
        archive.installs(&[]);
        archive.write("root/var/lib/lb-agent/state", "");
        archive.installs(&["--uninstall"]);
        assert!(!archive.path(PROGRAM).exists() && archive.path(CONFIG).exists());
        assert!(archive.path("root/var/lib/lb-agent").exists());
        archive.refuses(&["--uninstall"], "it is not installed");
        archive.installs(&[]);
        archive.installs(&["--purge"]);
        assert!(!archive.path("root/etc/lb-agent").exists());
        assert!(!archive.path("root/var/lib/lb-agent").exists());
        let left = Command::new("find")
            .arg(archive.path("root"))
            .args(["-type", "f"])
            .read();
        assert_eq!(left.unwrap(), "");
    }

    #[test]
    fn refusals_say_why() {
        let archive = Archive::new();
        archive.refuses(&["--unheard-of"], "unknown option --unheard-of");
        archive.write("archive/architecture", "m68k");
        archive.refuses(&[], "this archive is for m68k");
        fs::remove_file(archive.path("archive/lb-agent")).unwrap();
        archive.refuses(&[], "archive/lb-agent is missing; unpack the whole archive");
        archive.write("root/usr/bin/lb-agent", "");
        let packaged = archive.path("root/usr/bin/lb-agent");
        fs::set_permissions(packaged, fs::Permissions::from_mode(0o755)).unwrap();
        archive.refuses(&[], "it is installed as a package");
    }
}
