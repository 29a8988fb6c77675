//! Every configuration in the README and below docs/ is one that `lb-agent check` accepts.
//!
//! A block that begins with "```toml" is a whole configuration. One that begins with "```toml,fragment" is the rest of
//! a service with `mode = "http"`, whose first lines are put before it here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber,
};

/// The first lines of a fragment's service.
const SERVICE: &str = "[[service]]\nname = 'app'\nmode = 'http'\nlisten = ['127.0.0.1:8080']\n\
                       backends = ['127.0.0.1:5000']\n";

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = vec![root.join("README.md")];
    let mut directories = vec![root.join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths
}

/// The configurations of a page, whole.
fn configurations(page: &str) -> Vec<String> {
    let blocks = page.split("```toml").skip(1).map(|rest| {
        let (kind, rest) = rest.split_once('\n').unwrap();
        let block = rest.split("```").next().unwrap();
        match kind {
            "" => block.to_owned(),
            ",fragment" => format!("{SERVICE}{block}"),
            other => panic!("a block of TOML is whole or a fragment, not {other:?}"),
        }
    });
    blocks.collect()
}

/// A line of `htpasswd -B`.
const USER: &str = "ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n";

/// The paths below `directory` that a configuration names.
fn below<'c>(directory: &'c str, config: &'c str) -> impl Iterator<Item = &'c str> {
    let quoted = config.split('"').skip(1).step_by(2);
    quoted.filter_map(move |text| text.strip_prefix(directory))
}

/// A revocation list with nothing in it.
fn empty_list() -> CertificateRevocationListParams {
    let (day, now) = (Duration::from_secs(86_400), SystemTime::now());
    CertificateRevocationListParams {
        this_update: (now - day).into(),
        next_update: (now + day).into(),
        crl_number: SerialNumber::from(vec![1]),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// A directory in the place of /etc/lb-agent and of /srv, with the files and directories that `config` names.
fn directory(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // The workers look as another user than root.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let names = vec!["example.com".to_owned(), "*.example.com".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = key.serialize_pem();
    let list = empty_list().signed_by(&Issuer::new(params, key)).unwrap();
    for name in below("/srv/", config) {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in below("/etc/lb-agent/", config) {
        let text = match name {
            "users" => USER.to_owned(),
            name if name.contains("key") => pem.clone(),
            name if name.ends_with(".pem") => certificate.pem(),
            name if name.ends_with(".crl") => list.pem().unwrap(),
            _ => "<!doctype html>".to_owned(),
        };
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn every_configuration_of_the_pages_passes_check() {
    let mut checked = 0;
    for path in pages() {
        for config in configurations(&fs::read_to_string(&path).unwrap()) {
            let dir = directory(&config);
            let file = dir.path().join("config.toml");
            let place = format!("{}/", dir.path().display());
            let config = config.replace("/etc/lb-agent/", &place);
            fs::write(&file, config.replace("\"/srv/", &format!("\"{place}"))).unwrap();
            let mut check = Command::new(env!("CARGO_BIN_EXE_lb-agent"));
            let output = check.arg("check").arg("--config").arg(&file).output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success(),
                "{}: {said}\n{config}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} configurations were found");
}
