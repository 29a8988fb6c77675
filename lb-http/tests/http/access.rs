//! Basic authentication: who gets in, and who does not by any disguise or failure.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::log::Log;
use super::{Backend, Echo, OK, PATIENCE, Proxy, field};

/// Of `secret`.
const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
const ARGON2: &str = "$argon2id$v=19$m=1024,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$azfZBd5qxhOl2u4YH28/7xKwTHeWsd0r8eHso4Brzb4";

/// A users file, and the settings that name it.
struct Users {
    dir: tempfile::TempDir,
}

impl Users {
    fn new() -> Self {
        let users = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        users.write(&format!("ann:{BCRYPT}\nbob:{ARGON2}\n"));
        users
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("users")
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn auth(&self) -> String {
        auth_of(&self.path())
    }
}

fn auth_of(path: &Path) -> String {
    format!("auth = {{ users = '{}', realm = 'Staff' }}", path.display())
}

/// The header line of a user.
fn basic(user: &str, password: &str) -> String {
    let coded = STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {coded}\r\n")
}

#[track_caller]
fn ask(proxy: &Proxy, path: &str, more: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    proxy.ask(&request).answer()
}

#[test]
fn user_with_the_password_gets_in_and_the_backend_sees_who_it_is() {
    let (users, backend, log) = (Users::new(), Backend::new(), Log::new());
    let settings = format!("{}\n{}", users.auth(), log.settings());
    let proxy = Proxy::new(&[&backend], &settings);
    let mut behind = None;
    for user in ["ann", "bob", "ann"] {
        let line = basic(user, "secret");
        let mut client = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
        let behind = behind.get_or_insert_with(|| backend.accept());
        let head = behind.head();
        assert!(head.contains(&line.to_ascii_lowercase()[..14]), "{head}");
        behind.send(OK);
        assert_eq!(client.status(), 200, "{user}");
    }
    let (status, answer) = ask(&proxy, "/", &basic("ann", "wrong"));
    assert_eq!(status, 401);
    let challenge = "Basic realm=\"Staff\", charset=\"UTF-8\"";
    assert_eq!(field(&answer, "www-authenticate"), Some(challenge));
    let lines = log.lines(4);
    assert_eq!(
        (&lines[0]["user"], &lines[1]["user"]),
        (&"ann".into(), &"bob".into())
    );
    assert_eq!(
        (&lines[3]["status"], &lines[3]["why"]),
        (&401.into(), &"denied".into())
    );
}

#[test]
fn nobody_else_gets_in() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&echo.backend], &users.auth());
    let good = basic("ann", "secret");
    for line in [
        String::new(),
        basic("ann", ""),
        basic("ann", "Secret"),
        basic("eve", "secret"),
        basic("", "secret"),
        "Authorization: Basic !!!\r\n".to_owned(),
        "Authorization: Bearer abc\r\n".to_owned(),
        format!("{good}{good}"),
        good.replace("Authorization", "Proxy-Authorization"),
    ] {
        assert_eq!(ask(&proxy, "/", &line).0, 401, "{line:?}");
    }
    assert_eq!(ask(&proxy, "/", &good).0, 200);
}

#[test]
fn websocket_without_the_password_is_refused() {
    let (users, backend) = (Users::new(), Backend::new());
    let proxy = Proxy::new(&[&backend], &users.auth());
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(ask(&proxy, "/chat", upgrade).0, 401);
    backend.was_spared();
    let good = basic("ann", "secret");
    let mut client = proxy.ask(&format!(
        "GET /chat HTTP/1.1\r\nHost: a\r\n{good}{upgrade}\r\n"
    ));
    let (mut behind, _) = backend.request();
    behind.send(&format!(
        "HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n"
    ));
    assert!(client.head().starts_with("HTTP/1.1 101"));
}

#[test]
fn path_of_a_route_with_users_has_no_disguise() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    let auth = users.auth();
    let proxy = Proxy::new(
        &[&echo.backend],
        &format!("[[service.route]]\npath = '/admin'\n{auth}"),
    );
    assert_eq!(ask(&proxy, "/", "").0, 200);
    assert_eq!(ask(&proxy, "/Public", "").0, 200);
    for path in ["/admin", "/admin/x", "//admin", "/%61dmin", "/./admin"] {
        assert_eq!(ask(&proxy, path, "").0, 401, "{path}");
    }
    for path in [
        "/x/../admin",
        "/admin/../x",
        "/Admin",
        "/ADMIN/x",
        "/x%2f..%2fadmin",
        "/admin;x",
        "/x/..%2FAdmin",
        "/admin%00",
    ] {
        assert_eq!(ask(&proxy, path, "").0, 400, "{path}");
    }
}

#[test]
fn route_with_users_is_not_passed_by_letter_case_a_slash_or_another_spelling() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    let auth = users.auth();
    let route = |path: &str| format!("[[service.route]]\npath = '{path}'\n{auth}\n");
    let exact = format!("{}exact = true\n", route("/staff"));
    let settings = route("/Admin") + &exact + &route("/@team") + &route("/%C3%BCber");
    let proxy = Proxy::new(&[&echo.backend], &settings);
    for path in ["/Admin/x", "/staff", "/@team", "/%C3%BCber", "/%c3%bcber"] {
        assert_eq!(ask(&proxy, path, "").0, 401, "{path}");
    }
    for path in ["/admin", "/ADMIN/x", "/staff/", "/%40team/x", "/\u{fc}ber"] {
        assert_eq!(ask(&proxy, path, "").0, 400, "{path}");
    }
    assert_eq!(ask(&proxy, "/staffs", "").0, 200);
    assert_eq!(ask(&proxy, "/staff/x", "").0, 200);
}

#[test]
fn route_without_users_in_a_service_with_them_is_open_and_no_way_around() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    let settings = format!(
        "{}\n[[service.route]]\npath = '/open'\nauth = false\nanswer = {{ body = 'x' }}",
        users.auth()
    );
    let proxy = Proxy::new(&[&echo.backend], &settings);
    assert_eq!(ask(&proxy, "/open", "").0, 200);
    assert_eq!(ask(&proxy, "/", "").0, 401);
    assert_eq!(ask(&proxy, "/open/..%2fx", "").0, 400);
}

#[test]
fn changed_file_is_in_force_by_itself_and_a_broken_one_is_not() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    let proxy = Proxy::new(&[&echo.backend], &users.auth());
    assert_eq!(ask(&proxy, "/", &basic("ann", "secret")).0, 200);
    users.write(&format!("eve:{BCRYPT}\n"));
    let deadline = Instant::now() + PATIENCE;
    while ask(&proxy, "/", &basic("eve", "secret")).0 != 200 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(ask(&proxy, "/", &basic("ann", "secret")).0, 401);
    users.write("eve:plain\n");
    let problems = || {
        proxy
            .engine
            .as_ref()
            .unwrap()
            .problems()
            .collect::<Vec<_>>()
    };
    while problems().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        problems()[0].contains("the hash of eve"),
        "{:?}",
        problems()
    );
    assert_eq!(ask(&proxy, "/", &basic("eve", "secret")).0, 200);
}

#[test]
fn hash_under_way_holds_up_no_other_request_and_a_full_queue_is_503() {
    let (users, echo) = (Users::new(), Echo::new(OK));
    // A hash that takes longer than a request.
    users.write(&format!("ann:{}\n", BCRYPT.replace("$05$", "$11$")));
    let settings = format!("[[service.route]]\npath = '/admin'\n{}", users.auth());
    let proxy = Proxy::new(&[&echo.backend], &settings);
    let mut clients: Vec<_> = (0..100)
        .map(|number| {
            let line = basic("ann", &number.to_string());
            proxy.ask(&format!("GET /admin HTTP/1.1\r\nHost: a\r\n{line}\r\n"))
        })
        .collect();
    assert_eq!(clients.pop().unwrap().status(), 503);
    assert_eq!(ask(&proxy, "/", "").0, 200);
}
