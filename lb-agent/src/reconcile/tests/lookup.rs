//! The answers of `lookup` for services that are sticky by more than the address.

use super::*;
use crate::control::facts::RequestFacts;
use crate::control::message::Lookup;

/// An agent with the HTTP service `web` of two backends and the route `web/api` of two others.
fn agent(bench: &Bench, stickiness: &str) -> Reconciler {
    let text = format!(
        "[agent]\nstate_dir = '{0}/state'\ncontrol = '{0}/control'\n\
         [[service]]\nname = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
         backends = ['127.0.0.1:5000', '127.0.0.1:5001']\n\
         [service.http]\nstickiness = {stickiness}\n\
         [[service.route]]\nname = 'api'\npath = '/api'\n\
         backends = ['127.0.0.1:6000', '127.0.0.1:6001']\n",
        bench.dir.path().display()
    );
    std::fs::write(bench.config_path(), text).unwrap();
    bench.agent()
}

fn lookup(agent: &mut Reconciler, service: &str, request: RequestFacts) -> Lookup {
    let command = Command::Lookup {
        client: "203.0.113.9".parse().unwrap(),
        service: Some(service.to_owned()),
        request,
    };
    match agent.handle(command).unwrap() {
        Reply::Lookup(found) => found,
        other => panic!("{other:?}"),
    }
}

fn candidates(found: &Lookup) -> Vec<String> {
    let names = found.candidates.iter().map(ToString::to_string);
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn without_a_cookie_nothing_decides_and_a_route_is_as_sticky_as_its_service() {
    let bench = Bench::new("");
    let mut agent = agent(&bench, "{ cookie = 'lb' }");
    let of = |agent: &mut Reconciler, service: &str| {
        let found = lookup(agent, service, RequestFacts::default());
        assert_eq!(found.stickiness.by, "cookie");
        assert_eq!(found.stickiness.name.as_deref(), Some("lb"));
        assert_eq!((&found.decided_by, &found.backend), (&None, &None));
        assert_eq!((found.slot, &found.prefix), (None, &None));
        candidates(&found)
    };
    let both = ["127.0.0.1:5000", "127.0.0.1:5001"];
    assert_eq!(of(&mut agent, "web"), both);
    assert_eq!(
        of(&mut agent, "web/api"),
        ["127.0.0.1:6000", "127.0.0.1:6001"]
    );
    let stickiness = status(&mut agent).services.into_iter();
    let stickiness: Vec<String> = stickiness.map(|service| service.stickiness.by).collect();
    assert_eq!(stickiness, ["cookie", "cookie"]);
    // A backend without a listener gets none, and one that drains no new one.
    *bench.plane.listening.lock().unwrap() = Some(vec![5001, 6000, 6001]);
    assert_eq!(of(&mut agent, "web"), ["127.0.0.1:5001"]);
    let hour = Duration::from_secs(3600);
    agent.handle(drain("127.0.0.1:6000", hour)).unwrap();
    assert_eq!(of(&mut agent, "web/api"), ["127.0.0.1:6001"]);
}

#[test]
fn socketio_leaves_requests_without_a_session_to_the_address() {
    let bench = Bench::new("");
    let mut agent = agent(&bench, "'socketio'");
    let by_address = lookup(&mut agent, "web", RequestFacts::default());
    assert_eq!(by_address.decided_by.as_deref(), Some("address"));
    assert_eq!(by_address.prefix.as_deref(), Some("203.0.113.9/32"));
    assert_eq!(
        candidates(&by_address),
        ["127.0.0.1:5000", "127.0.0.1:5001"]
    );
    let unknown = RequestFacts {
        sid: Some("abc".to_owned()),
        ..RequestFacts::default()
    };
    assert_eq!(lookup(&mut agent, "web", unknown), by_address);
    let new = RequestFacts {
        query: Some("EIO=4&transport=polling".to_owned()),
        ..RequestFacts::default()
    };
    let new = lookup(&mut agent, "web", new);
    assert_eq!((&new.decided_by, &new.backend), (&None, &None));
    assert_eq!(new.candidates, by_address.candidates);
    // With one listener left, the address leads there.
    *bench.plane.listening.lock().unwrap() = Some(vec![5000]);
    let left = lookup(&mut agent, "web", RequestFacts::default());
    assert_eq!(left.backend.unwrap().to_string(), "127.0.0.1:5000");
}

#[test]
fn a_header_has_a_slot_of_its_own_and_without_it_the_address_decides() {
    let bench = Bench::new("");
    let mut agent = agent(&bench, "{ header = 'X-User' }");
    let mut of = |name: &str, value: String| {
        let request = RequestFacts {
            header: Some((name.to_owned(), value)),
            ..RequestFacts::default()
        };
        lookup(&mut agent, "web", request)
    };
    let users: Vec<Lookup> = (0..16).map(|n| of("x-user", format!("user{n}"))).collect();
    let slots: std::collections::BTreeSet<_> = users.iter().map(|found| found.slot).collect();
    assert_eq!(slots.len(), users.len(), "each value has a slot");
    for found in &users {
        assert_eq!(found.decided_by.as_deref(), Some("header"));
        assert_eq!((&found.prefix, found.order.len()), (&None, 2));
        assert_eq!(found.backend.as_ref(), found.order.first());
    }
    let other = of("x-other", "user0".to_owned());
    assert_eq!(other.decided_by.as_deref(), Some("address"));
    assert_eq!(candidates(&other), Vec::<String>::new());
}
