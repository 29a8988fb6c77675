//! Changes made at run time: how they are named and ended.

use super::*;

fn message(reply: Reply) -> String {
    match reply {
        Reply::Changed { message } | Reply::Unchanged { message } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reset_backend_is_as_the_file_says() {
    let bench = Bench::new("'127.0.0.1:5000', { address = '127.0.0.1:5001', weight = 7 }");
    let mut agent = bench.agent();
    let reset = |agent: &mut Reconciler, address: &str| {
        agent.handle(Command::ResetBackend {
            address: address.parse().unwrap(),
            service: None,
        })
    };
    agent.handle(remove("127.0.0.1:5001")).unwrap();
    agent
        .handle(drain("127.0.0.1:5000", Duration::ZERO))
        .unwrap();
    agent.handle(add("127.0.0.1:5002")).unwrap();
    let note = "1 of the file was removed at run time: 127.0.0.1:5001 (of web; \"lb-agent \
                reset-backend\" puts one back)";
    assert_eq!(status(&mut agent).agent.notes, [note]);
    let told = [
        (
            "127.0.0.1:5001",
            "reset to the file: 127.0.0.1:5001 (web: 3 backends)",
        ),
        (
            "127.0.0.1:5000",
            "reset to the file: 127.0.0.1:5000 (web: 3 backends)",
        ),
        (
            "127.0.0.1:5002",
            "removed 127.0.0.1:5002 (web: 2 backends), as it is not in the file",
        ),
        (
            "127.0.0.1:5000",
            "127.0.0.1:5000 of web has no changes made at run time",
        ),
    ];
    for (address, expected) in told {
        assert_eq!(message(reset(&mut agent, address).unwrap()), expected);
    }
    assert_eq!(status(&mut agent).agent.notes, Vec::<String>::new());
    assert_eq!(status(&mut agent).services[0].backends[1].weight, 7);
    let refusal = reset(&mut agent, "127.0.0.1:5002").unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotFound);
}

#[test]
fn reload_names_the_changes_that_stay_and_ends_them_on_request() {
    let bench = Bench::new("'127.0.0.1:5000', '127.0.0.1:5001'");
    let mut agent = bench.agent();
    agent.handle(remove("127.0.0.1:5001")).unwrap();
    agent.handle(add("127.0.0.1:5002")).unwrap();
    let reload = |forget_runtime| Command::Reload {
        max_moved: None,
        forget_runtime,
    };
    let notes = [
        "1 of the file was removed at run time: 127.0.0.1:5001 (of web; \"lb-agent reset-backend\" puts one \
         back)",
        "1 added at run time stays beside the file: 127.0.0.1:5002 (of web)",
    ];
    let plan = agent.snapshot().plan(None, false).unwrap();
    assert_eq!(
        (plan.services.len(), plan.notes),
        (0, notes.map(str::to_owned).into())
    );
    let told = message(agent.handle(reload(false)).unwrap());
    assert_eq!(
        told,
        format!("reloaded: 1 service, 2 backends\n{}", notes.join("\n"))
    );
    let plan = agent.snapshot().plan(None, true).unwrap();
    assert_eq!((plan.services[0].backends.len(), plan.notes.len()), (3, 0));
    let told = message(agent.handle(reload(true)).unwrap());
    assert_eq!(
        told,
        "reloaded: 1 service, 2 backends; forgot changes of 2 backends made at run time"
    );
    drop(agent);
    let expected = ["127.0.0.1:5000 up file", "127.0.0.1:5001 up file"];
    assert_eq!(backends(&mut bench.agent()), expected);
}
