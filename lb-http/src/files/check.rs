//! Whether the roots of a configuration can be read, as a worker would read them.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::open::{Found, How, Opened, find, open_root};
use lb_config::Config;
use lb_config::http::{Action, Files};

/// The problems of the roots in `config`, a line each. They are looked at by a thread that `confine` has made one with
/// the privileges of a worker; `user` names its user.
pub fn check_config(
    config: &Config,
    user: &str,
    confine: impl FnOnce() -> io::Result<()> + Send,
) -> Vec<String> {
    let is_served = config.services.iter().flat_map(|service| &service.http);
    let is_needed = is_served
        .flat_map(|http| &http.routes)
        .any(|route| matches!(route.action, Action::Files { .. }));
    if !is_needed {
        return Vec::new();
    }
    let look = || match confine() {
        Ok(()) => problems(config, user),
        Err(error) => vec![format!("files cannot be checked as {user}: {error}")],
    };
    std::thread::scope(|scope| scope.spawn(look).join()).unwrap_or_default()
}

fn problems(config: &Config, user: &str) -> Vec<String> {
    let source = config.source.as_deref().unwrap_or(Path::new(""));
    let written = config.services.iter().filter(|s| !s.is_inside());
    let mut problems = Vec::new();
    for (index, service) in written.enumerate() {
        let routes = service.http.iter().flat_map(|http| &http.routes);
        for (place, route) in routes.enumerate() {
            if let Action::Files { files, .. } = &route.action
                && let Some(problem) = problem(files, user)
            {
                problems.push(format!(
                    "{}:{}: service[{index}].route[{place}].files: {problem}",
                    source.display(),
                    files.line
                ));
            }
        }
    }
    problems
}

fn problem(files: &Files, user: &str) -> Option<String> {
    let shown = files.root.display();
    let root = match open_root(&files.root, How::Blocking) {
        Ok(root) => root,
        Err(error) => {
            let problem = match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => {
                    "is not there (make the directory, or correct root)".to_owned()
                }
                Some(Errno::NOTDIR) => {
                    "is no directory (name the one that the files are in)".to_owned()
                }
                Some(Errno::ACCESS) => denied(&files.root, user),
                Some(Errno::NOSYS) => {
                    "cannot be opened safely: this kernel has no openat2 (Linux 5.6)".to_owned()
                }
                _ => format!("cannot be opened: {error}"),
            };
            return Some(format!("{shown} {problem}"));
        }
    };
    if !may_enter(&root) {
        let remedy = format!("chmod o+x {shown}, or make its group one of {user}");
        return Some(format!("{shown} may not be entered by {user} ({remedy})"));
    }
    let plain = files.attempts.iter().filter(|attempt| !attempt.of_request);
    let plain = plain.map(|attempt| attempt.rest.trim_start_matches('/'));
    let names = files.index.iter().map(String::as_str).chain(plain);
    let mut denied = names.filter(|name| is_denied(&root, name));
    denied.next().map(|name| {
        let path = files.root.join(name);
        let path = path.display();
        format!(
            "{path} may not be read by {user} (chmod o+r {path}, or make its group one of {user})"
        )
    })
}

/// The directory above `path` that `user` may not enter.
fn denied(path: &Path, user: &str) -> String {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let is_closed =
        |directory: &&Path| open_root(directory, How::Blocking).is_ok_and(|it| !may_enter(&it));
    let closed = above.into_iter().find(is_closed).unwrap_or(Path::new("/"));
    let closed = closed.display();
    format!(
        "cannot be reached by {user}, as {closed} may not be entered (chmod o+x {closed}, or move the files, as to /srv)"
    )
}

fn may_enter(directory: &Opened) -> bool {
    !matches!(
        statat(directory.fd(), ".", AtFlags::empty()),
        Err(Errno::ACCESS)
    )
}

fn is_denied(root: &Opened, name: &str) -> bool {
    matches!(
        find(root, name.as_bytes(), None, How::Blocking),
        Ok(Found::Denied)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};

    fn problem_of(root: &Path) -> Option<String> {
        let files = Files {
            root: root.to_owned(),
            ..Files::default()
        };
        problem(&files, "tester")
    }

    #[test]
    fn root_has_to_be_a_directory_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("file"), "").unwrap();
        assert_eq!(problem_of(dir.path()), None);
        let of = |name: &str| problem_of(&dir.path().join(name)).unwrap();
        assert!(of("none").ends_with("/none is not there (make the directory, or correct root)"));
        assert!(of("file").contains("/file is no directory"));
    }

    #[test]
    fn thread_that_cannot_be_confined_checks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(dir.path().join("www")).unwrap();
        let text = format!(
            "[[service]]\nname = 'a'\nmode = 'http'\nlisten = ['127.0.0.1:1']\n\
             [[service.route]]\npath = '/'\nfiles = '{}/none'\n",
            dir.path().display()
        );
        let config = lb_config::parse(&text, Path::new("c.toml")).unwrap();
        let found = check_config(&config, "tester", || Ok(()));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("c.toml:7: service[0].route[0].files: /"),
            "{found:?}"
        );
        let refused = check_config(&config, "tester", || {
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!(
            refused,
            ["files cannot be checked as tester: permission denied"]
        );
    }
}
