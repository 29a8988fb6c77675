//! Each proxy is asked once for everything that is measured: one that did less would be measured
//! doing less.

use super::super::net::{Net, SERVER};
use super::answer::Answer;
use super::place::{client, load_program};
use super::ports::{Port, Proxy};
use super::shape::Shape;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// How often a sticky client asks.
const STICKY: usize = 6;

/// A proxy that is asked.
pub(super) struct Check<'a> {
    pub(super) net: &'a Net,
    pub(super) proxy: Proxy,
    /// For temporary files.
    pub(super) dir: &'a Path,
}

impl Check<'_> {
    /// Asks, and fails unless the answer is what it has to be.
    pub(super) fn ask(&self, shape: &Shape) -> Result<Answer> {
        let answer = self.answer(shape)?;
        shape.check(&answer, self.dir)?;
        Ok(answer)
    }

    /// Asks as often as the limits here let pass, whatever the answer.
    pub(super) fn exhaust(&self, shape: &Shape) -> Result<()> {
        self.answer(shape).map(drop)
    }

    fn answer(&self, shape: &Shape) -> Result<Answer> {
        let to = format!("{SERVER}:{}", self.proxy.port(shape.port));
        let request = shape.bytes(&to);
        let bytes = match shape.port {
            Port::Tls => self.over_tls(&to, &request)?,
            _ => self.raw(&to, &request)?,
        };
        Answer::read(&bytes)
    }

    fn raw(&self, to: &str, request: &[u8]) -> Result<Vec<u8>> {
        let mut load = client(self.net, load_program());
        load.args(["ask", to]);
        let said: Value = serde_json::from_slice(&talk(load, request)?)?;
        let bytes = said["answer"].as_array().context("no answer")?;
        let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
        bytes
            .iter()
            .map(byte)
            .collect::<Option<_>>()
            .context("no bytes")
    }

    fn over_tls(&self, to: &str, request: &[u8]) -> Result<Vec<u8>> {
        let mut openssl = client(self.net, "openssl");
        openssl.args(["s_client", "-quiet", "-connect", to]);
        openssl.stderr(Stdio::null());
        talk(openssl, request)
    }

    /// A request with the cookie that the proxy gives to newcomers.
    pub(super) fn cookie(&self) -> Result<Shape> {
        let answer = self.ask(&Shape::newcomer())?;
        let given = answer.header("set-cookie");
        let pair = given.and_then(|cookie| cookie.split(';').next());
        // nginx takes any.
        let shape = Shape::cookie(match self.proxy {
            Proxy::Nginx => "lb=0123456789abcdef",
            _ => pair.context("no cookie was given")?,
        });
        self.is_sticky(&shape)?;
        Ok(shape)
    }

    /// A request for a file that the client has: it names the tag that the proxy gave it.
    pub(super) fn known(&self, file: (&str, usize)) -> Result<Shape> {
        let answer = self.ask(&Shape::file(file))?;
        let tag = answer.header("etag").context("a file without a tag")?;
        Ok(Shape::not_modified(file, tag))
    }

    /// A poll of a session that was begun through the proxy.
    pub(super) fn session(&self) -> Result<Shape> {
        let answer = self.ask(&Shape::handshake())?;
        let text = String::from_utf8_lossy(&answer.body);
        let open: Value = serde_json::from_str(text.trim_start_matches('0'))?;
        let shape = Shape::poll(open["sid"].as_str().context("no sid")?);
        self.is_sticky(&shape)?;
        Ok(shape)
    }

    /// Fails unless all requests come to one backend.
    fn is_sticky(&self, shape: &Shape) -> Result<()> {
        let first = self.ask(shape)?.backend();
        for _ in 1..STICKY {
            let backend = self.ask(shape)?.backend();
            ensure!(
                backend.is_some() && backend == first,
                "the client of {first:?} came to {backend:?}"
            );
        }
        Ok(())
    }
}

/// Gives `input` to a program and returns what it says.
fn talk(mut program: Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program:?}"))?;
    let mut pipe = child.stdin.take().context("no input")?;
    pipe.write_all(input).context("ask")?;
    drop(pipe);
    let output = child.wait_with_output().context("wait for an answer")?;
    ensure!(output.status.success(), "no answer ({})", output.status);
    Ok(output.stdout)
}
