//! `lb-agent top`, in a terminal: it shows services and backends, and its keys drain and undrain.

use std::process::{Command, Output};

use lb_tests::agent::{Agent, program};
use lb_tests::topology::hosts::{Hosts, SERVICE_V4, client_v4};
use lb_tests::{http, node, wait};

/// A terminal of its own, by tmux; gone when dropped.
struct Terminal {
    name: String,
}

impl Terminal {
    fn start(agent: &Agent<'_>, arguments: &str) -> Self {
        let name = format!("lbt-{}", std::process::id());
        let terminal = Self { name };
        let control = agent.control();
        let line = format!(
            "LB_AGENT_CONTROL='{}' '{}' {arguments}; echo \"ended with $?\"; sleep 60",
            control.display(),
            program().display()
        );
        let output = terminal.tmux(&["new-session", "-d", "-x", "130", "-y", "40", &line]);
        assert!(output.status.success(), "{output:?}");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.name, "-f", "/dev/null"])
            .args(arguments);
        command.output().expect("tmux")
    }

    fn keys(&self, keys: &str) {
        assert!(self.tmux(&["send-keys", keys]).status.success());
    }

    /// Waits until the screen has all of `texts`.
    #[track_caller]
    fn shows(&self, texts: &[&str]) {
        wait::until(&format!("{texts:?} on the screen"), || {
            let screen = self.tmux(&["capture-pane", "-p"]).stdout;
            let screen = String::from_utf8_lossy(&screen).into_owned();
            let all = texts.iter().all(|text| screen.contains(text));
            all.then_some(())
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn it_shows_what_happens_and_its_keys_drain_and_undrain() {
    let hosts = Hosts::new();
    let services = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
                    backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n";
    let agent = Agent::start(&hosts.balancer, services);
    let _apps = node::copies(&hosts.balancer, [5000], agent.dir());
    let terminal = Terminal::start(&agent, "top --interval 200ms");
    terminal.shows(&[
        "127.0.0.1:5000",
        "listening",
        "127.0.0.1:5001",
        "not listening",
        "web: ",
    ]);
    terminal.shows(&["last events", "ready"]);
    let _held: Vec<_> = (1..=7)
        .map(|n| {
            hosts
                .clients
                .run(|| http::connect(client_v4(n), SERVICE_V4).unwrap())
        })
        .collect();
    terminal.shows(&["7 open"]);
    terminal.keys("Down");
    terminal.keys("d");
    terminal.shows(&["draining 127.0.0.1:5001 of web", "> 127.0.0.1:5001"]);
    wait::until("the drain", || {
        (agent.backend("127.0.0.1:5001")["state"] == "draining").then_some(())
    });
    assert_eq!(agent.backend("127.0.0.1:5000")["state"], "up");
    terminal.keys("u");
    terminal.shows(&["put back in service 127.0.0.1:5001"]);
    assert_eq!(agent.backend("127.0.0.1:5001")["state"], "no listener");
    terminal.keys("q");
    terminal.shows(&["ended with 0"]);
}
