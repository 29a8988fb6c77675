//! One balancer with a service on every path, the applications behind it, and load on all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::clock::Clock;
use lb_tests::disk::Disk;
use lb_tests::http;
use lb_tests::load::Load;
use lb_tests::random::Random;
use lb_tests::tls::{Authority, Files};
use lb_tests::topology::hosts::{Hosts, client_v4, client_v6};
use lb_tests::wait;
use serde_json::Value;

use crate::apps::App;
use crate::figures::{Counters, Size};
use crate::inside::Inside;
use crate::judge::{Cost, Disruption, Judge};
use crate::sessions::{Secure, Sessions};
use crate::ways::{self, Way};

/// Time for which an ending agent serves open connections.
pub(crate) const DRAIN: Duration = Duration::from_secs(3);

/// The settings in the configuration that change.
pub(crate) struct Settings {
    pub(crate) weight: u64,
    pub(crate) min_version: &'static str,
    pub(crate) http: &'static str,
}

/// Something that happens to the world.
pub(crate) struct Act {
    pub(crate) name: &'static str,
    /// Performs the act, and makes sure that it is over.
    pub(crate) play: fn(&mut World<'_>) -> Cost,
    /// Whether the agent lives through it.
    pub(crate) agent_lives: bool,
}

/// The whole state of the soak test.
pub(crate) struct World<'a> {
    pub(crate) hosts: &'a Hosts,
    inside: Inside,
    // Unmounted before the agent's directory is removed.
    pub(crate) disk: Disk,
    pub(crate) agent: Agent<'a>,
    pub(crate) clock: Clock,
    pub(crate) apps: Vec<App>,
    pub(crate) authority: Authority,
    certificate: Files,
    pub(crate) settings: Settings,
    /// The balancer's interface towards clients.
    pub(crate) wire: String,
    /// Clients of the control socket that say nothing.
    pub(crate) crowd: usize,
    pub(crate) random: Random,
    judge: Judge,
    loads: Vec<(Way, Load)>,
    sessions: Vec<Sessions>,
    secure: Secure,
    counters: Counters,
    begun: Instant,
    did: BTreeMap<&'static str, (u32, Duration)>,
    _dir: tempfile::TempDir,
}

impl<'a> World<'a> {
    /// Everything is up, and load goes on.
    pub(crate) fn new(hosts: &'a Hosts, random: Random, length: Duration) -> Self {
        // Addresses stay when an interface goes down.
        hosts
            .balancer
            .set("net/ipv6/conf/all/keep_addr_on_down", "1");
        let inside = Inside::new(hosts);
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        let certificate = authority.issue("soak", &["soak.test"]);
        let settings = Settings {
            weight: 1,
            min_version: "1.2",
            http: "",
        };
        let mut apps = App::all(dir.path());
        std::thread::scope(|scope| {
            for app in &mut apps {
                let host = inside.host_of(app, hosts);
                let dir = dir.path();
                scope.spawn(move || app.start(host, dir));
            }
        });
        let mut agent = Agent::start(&hosts.balancer, &text(&settings, &apps, &certificate));
        agent.kill();
        std::fs::remove_dir_all(agent.dir().join("state")).unwrap();
        let disk = Disk::mount(&agent.dir().join("state"));
        let clock = Clock::new(agent.dir());
        let mut command = agent.run_command();
        clock.rule(&mut command);
        agent.start_as(command);
        let secure = Secure::open(&hosts.clients, &authority);
        let mut world = Self {
            hosts,
            inside,
            disk,
            agent,
            clock,
            apps,
            authority,
            certificate,
            settings,
            wire: "wire".to_owned(),
            crowd: if length > Duration::from_secs(60) {
                10_000
            } else {
                1000
            },
            random,
            judge: Judge::default(),
            loads: Vec::new(),
            sessions: Vec::new(),
            secure,
            counters: Counters::default(),
            begun: Instant::now(),
            did: BTreeMap::new(),
            _dir: dir,
        };
        for port in [5020, 5021] {
            world.wait_until_fit(port);
        }
        world.come();
        world
    }

    /// Clients begin to come, on every way.
    fn come(&mut self) {
        let host = &self.hosts.clients;
        let lanes = [
            (Way::Socket, 101),
            (Way::Nat, 121),
            (Way::Http, 141),
            (Way::Http2, 161),
        ];
        self.sessions = lanes
            .into_iter()
            .map(|(way, first)| {
                let from: Vec<IpAddr> = (first..first + 12).map(client_v4).collect();
                Sessions::open(host, self._dir.path(), way, from)
            })
            .collect();
        let v4 = |first: u16| (first..first + 20).map(client_v4).collect::<Vec<_>>();
        let v6: Vec<IpAddr> = (1..=20).map(client_v6).collect();
        for (way, from) in [
            (Way::Socket, v4(1)),
            (Way::Proxy, v6),
            (Way::Http, v4(41)),
            (Way::Nat, v4(61)),
            (Way::Dsr, v4(81)),
            (Way::Datagrams, v4(1)),
            (Way::NatDatagrams, v4(21)),
        ] {
            let load = match way {
                Way::Http => Load::visiting(host, &from, 50, keep_alive),
                _ => Load::visiting(host, &from, 30, move || move |from| way.visit(from)),
            };
            self.loads.push((way, load));
        }
        self.served(40);
    }

    /// Performs one act, and checks everything after it.
    pub(crate) fn step(&mut self, act: &'static Act) {
        let begun = Instant::now();
        let cost = (act.play)(self);
        let did = self.did.entry(act.name).or_default();
        *did = (did.0 + 1, did.1 + begun.elapsed());
        if let Some(text) = &cost.logged {
            let log = self.agent.log();
            assert!(log.contains(text), "{text:?} is not in {log}");
        }
        let disruption = Disruption::new(act.name, begun, cost);
        println!("{:8.1?} {}", self.begun.elapsed(), disruption.what);
        self.served(8);
        for sessions in &mut self.sessions {
            sessions.check(&disruption);
        }
        if !act.agent_lives {
            self.secure = Secure::open(&self.hosts.clients, &self.authority);
        }
        self.secure.ask();
        self.counters
            .check(&self.stats(), self.agent.pid(), &disruption);
        self.judge.note(disruption);
        for (way, load) in &self.loads {
            self.judge.hear(*way, load.so_far());
        }
        let log = self.agent.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Waits until so many more visits on each way are over.
    fn served(&self, count: usize) {
        let goals: Vec<usize> = self
            .loads
            .iter()
            .map(|(_, load)| load.made() + count)
            .collect();
        wait::until("everybody to be served", || {
            let mut loads = self.loads.iter().zip(&goals);
            loads
                .all(|((_, load), goal)| load.made() >= *goal)
                .then_some(())
        });
    }

    /// Closes all clients' connections.
    pub(crate) fn rest(&mut self) {
        for (way, load) in self.loads.drain(..) {
            self.judge.hear(way, load.finish());
        }
        self.sessions.clear();
        let mut since = None;
        wait::until("no open connection", || {
            let status = self.agent.status();
            let services = status["services"].as_array()?;
            let backends = services.iter().flat_map(|one| one["backends"].as_array());
            let open: Vec<&Value> = backends
                .flatten()
                .filter(|backend| backend["active"] != 0)
                .collect();
            let begun = *since.get_or_insert_with(Instant::now);
            let patient = begun.elapsed() < wait::PATIENCE / 2;
            assert!(open.is_empty() || patient, "still open: {open:#?}");
            open.is_empty().then_some(())
        });
    }

    /// Prints each act with its count and the results.
    pub(crate) fn report(&self) {
        for (name, (times, time)) in &self.did {
            let each = *time / *times;
            println!("{times:4} x {name} ({each:.0?} each)");
        }
        self.judge.report();
    }

    pub(crate) fn stats(&self) -> Value {
        serde_json::from_str(&self.agent.ok(&["stats", "--json"])).unwrap()
    }

    pub(crate) fn size(&self) -> Size {
        Size::of(&self.stats(), self.agent.pin_dir())
    }

    /// Starts the agent again after its end.
    pub(crate) fn start_agent(&mut self) {
        let mut command = self.agent.run_command();
        self.clock.rule(&mut command);
        self.agent.start_as(command);
    }

    /// Writes the configuration as the settings are.
    pub(crate) fn configure(&self) {
        let text = text(&self.settings, &self.apps, &self.certificate);
        self.agent.configure(&text);
    }

    /// Index of a random application.
    pub(crate) fn any_app(&mut self) -> usize {
        self.random.below(self.apps.len() as u64) as usize
    }

    /// Kills an application and starts it again.
    pub(crate) fn restart_app(&mut self, index: usize) {
        let app = &mut self.apps[index];
        app.process = None;
        let host = self.inside.host_of(app, self.hosts);
        app.start(host, self._dir.path());
    }

    /// The entry in `status` of the application with the name `port`.
    pub(crate) fn backend(&self, port: u16) -> Value {
        let app = self.apps.iter().find(|app| app.port == port).expect("one");
        let status = self.agent.status();
        let mut services = status["services"].as_array().into_iter().flatten();
        let service = services.find(|service| service["name"] == app.service);
        let mut backends = service
            .and_then(|one| one["backends"].as_array())
            .into_iter()
            .flatten();
        let found = backends.find(|backend| backend["address"] == app.address.as_str());
        found
            .unwrap_or_else(|| panic!("{}: {status:#}", app.address))
            .clone()
    }

    /// Waits until an application is in service, and healthy if that is checked.
    pub(crate) fn wait_until_fit(&self, port: u16) {
        wait::until(&format!("{port} in service"), || {
            let backend = self.backend(port);
            let health = &backend["health"];
            let healthy = health.is_null() || health["state"] == "up";
            (healthy && backend["state"] == "up").then_some(())
        });
    }
}

/// Visits on connections that stay. If one has ended before it was used again, the request is sent on
/// another, as all clients do (RFC 9110, section 9.2.2).
fn keep_alive() -> impl FnMut(IpAddr) -> std::io::Result<http::Answer> {
    let mut open: BTreeMap<IpAddr, TcpStream> = BTreeMap::new();
    move |from| {
        let kept = open.remove(&from);
        let kept = kept.map(|stream| (http::ask_again(&stream), stream));
        let (asked, stream) = match kept.filter(|(asked, _)| !has_ended(asked)) {
            Some(kept) => kept,
            None => {
                let stream = http::connect(from, Way::Http.address())?;
                (http::ask_again(&stream), stream)
            }
        };
        let (answer, stays) = asked?;
        if stays {
            open.insert(from, stream);
        }
        Ok(answer)
    }
}

fn has_ended<T>(asked: &std::io::Result<T>) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind = asked.as_ref().err().map(std::io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionReset | UnexpectedEof))
}

fn text(settings: &Settings, apps: &[App], certificate: &Files) -> String {
    let backends = |service: &str| {
        let own = apps.iter().filter(|app| app.service == service);
        let one = |app: &App| match app.port {
            5003 => format!(
                "{{ address = '{}', weight = {} }}",
                app.address, settings.weight
            ),
            _ => format!("'{}'", app.address),
        };
        own.map(one).collect::<Vec<_>>().join(", ")
    };
    format!(
        "metrics = '127.0.0.1:9600'\nflow_timeouts = {{ udp = '5s' }}\n\
         [[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = [{}]\n\
         [[service]]\nname = 'six'\nlisten = ['[::]:80']\nbackends = [{}]\n\
         [[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:81']\nbackends = [{}]\n\
         [service.tls]\nlisten = ['0.0.0.0:443']\ncertificates = [{}]\nmin_version = '{}'\n\
         [service.http]\n{}\ntimeouts = {{ drain = '{}s' }}\n\
         [[service]]\nname = 'far'\nlisten = ['{}']\nbackends = [{}]\n\
         [service.health]\ntype = 'tcp'\ninterval = '200ms'\ntimeout = '2s'\n\
         [[service]]\nname = 'near'\nmode = 'udp'\nlisten = ['10.99.0.1:5300']\nbackends = [{}]\n\
         [[service]]\nname = 'echo'\nmode = 'udp'\nlisten = ['{}']\nbackends = [{}]\n\
         [[service]]\nname = 'direct'\nlisten = ['{}']\npath = 'dsr'\nencapsulation = 'l2'\n\
         backends = [{}]\n",
        backends("web"),
        backends("six"),
        backends("app"),
        certificate.toml(),
        settings.min_version,
        settings.http,
        DRAIN.as_secs(),
        Way::Nat.address(),
        backends("far"),
        backends("near"),
        Way::NatDatagrams.address(),
        backends("echo"),
        ways::DIRECT,
        backends("direct"),
    )
}
