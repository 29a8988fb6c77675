//! Chromium without a window, and a driver that tells it what to do by its DevTools protocol.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::node;
use crate::process::Process;
use crate::tls::Files;
use crate::topology::hosts::Host;

/// Programs of Debian's packages, either of them. The scripts in /usr/bin start these: ending a script
/// would leave the browser running.
const PROGRAMS: [&str; 2] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
];

/// The browser on `host`, with its files in `dir`. Names that end in `.test` are at `server`.
pub fn command(host: &Host, dir: &Path, server: IpAddr) -> Command {
    let mut programs = PROGRAMS.iter();
    let browser = programs
        .find(|program| Path::new(program).exists())
        .expect("a browser (apt-get install chromium-headless-shell)");
    let mut command = host.command(browser);
    command
        .args([
            "--headless",
            "--no-sandbox",
            // A page that could not be loaded is loaded anew by the test alone.
            "--disable-auto-reload",
            "--disable-gpu",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--host-resolver-rules=MAP *.test {server}"))
        .arg(format!("--user-data-dir={}", profile(dir)))
        .env("HOME", dir);
    command
}

fn profile(dir: &Path) -> String {
    dir.join("profile").display().to_string()
}

/// A browser with one page.
pub struct Browser {
    driver: Process,
    _chromium: Process,
}

impl Browser {
    /// Starts it. Of certificates that no authority of its own has signed it trusts `certificate` alone.
    pub fn start(host: &Host, dir: &Path, server: IpAddr, certificate: &Files) -> Self {
        let mut chromium = command(host, dir, server);
        chromium
            .arg(format!(
                "--ignore-certificate-errors-spki-list={}",
                key_digest(certificate)
            ))
            .arg("about:blank");
        let chromium = Process::start(chromium, &dir.join("chromium.log"));
        let mut driver = host.command("node");
        driver
            .arg(node::apps_dir().join("browser.js"))
            .arg(profile(dir));
        let mut driver = Process::start(driver, &dir.join("browser.log"));
        driver.wait_for("ready");
        Self {
            driver,
            _chromium: chromium,
        }
    }

    /// Goes to `url`. The status of the answer, or the browser's name of the error.
    #[track_caller]
    pub fn open(&mut self, url: &str) -> Value {
        self.tell(json!({ "do": "open", "url": url }))
    }

    /// The value of a script in the page, of its promise if it is one.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> Value {
        self.tell(json!({ "do": "run", "script": script }))
    }

    /// Puts a file into the field of a form that a CSS selector names.
    #[track_caller]
    pub fn choose(&mut self, field: &str, file: &Path) {
        self.tell(json!({ "do": "choose", "field": field, "file": file }));
    }

    /// Takes a picture (PNG) of the page in a window of this size, with a colour scheme (`light` or `dark`).
    #[track_caller]
    pub fn picture(&mut self, file: &Path, width: u32, height: u32, scheme: &str) {
        self.tell(json!({
            "do": "picture", "file": file, "width": width, "height": height, "scheme": scheme,
        }));
    }

    /// `url`, `status`, `protocol` and `headers` of the responses since the last call.
    #[track_caller]
    pub fn responses(&mut self) -> Vec<Value> {
        serde_json::from_value(self.tell(json!({ "do": "responses" }))).unwrap()
    }

    /// Errors of the console and of scripts since the last call.
    #[track_caller]
    pub fn complaints(&mut self) -> Vec<String> {
        serde_json::from_value(self.tell(json!({ "do": "complaints" }))).unwrap()
    }

    #[track_caller]
    fn tell(&mut self, command: Value) -> Value {
        self.driver.tell(&command.to_string());
        let line = self.driver.wait_for("{\"");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["ok"].clone()
    }
}

/// SHA-256 of the public key (SubjectPublicKeyInfo) in base64.
fn key_digest(certificate: &Files) -> String {
    let steps = "openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | \
                 openssl dgst -sha256 -binary | openssl base64";
    let file = fs::File::open(&certificate.certificate).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", steps]).stdin(Stdio::from(file));
    let output = shell.output().expect("start openssl");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
