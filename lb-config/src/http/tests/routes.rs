//! Routes.

use super::*;

#[test]
fn wrong_path_or_host_of_a_route_is_one_problem() {
    let found = errors_with(
        "[[service.route]]\nbackends = ['127.0.0.1:1']\npath = 'api'\nlimit = [{ rate = '1/1s' }]\n\
         [[service.route]]\npath = 'b'\nanswer = { status = 200 }\n\
         [[service.route]]\nhost = '*'\nanswer = { status = 200 }\n\
         [[service.route]]\nanswer = { status = 200 }\nlimit = [{ rate = '1/1s' }]\n",
    );
    assert_eq!(found.len(), 3, "{found:#?}");
    for (problem, begin) in found.iter().zip([
        "8: service[0].route[0].path: ",
        "11: service[0].route[1].path: ",
        "14: service[0].route[2].host: ",
    ]) {
        assert!(problem.starts_with(begin), "{problem}");
    }
}

#[test]
fn two_routes_cannot_have_one_name() {
    let found = errors_with(
        "[[service.route]]\npath = '/a'\nbackends = ['127.0.0.1:2']\n\
         [[service.route]]\nname = 'a'\npath = '/b'\nbackends = ['127.0.0.1:3']\n",
    );
    assert_eq!(
        found,
        [
            "10: service[0].route[1].name: \"app/a\" is the name of service[0] (line 8) too (give each service a name of its own)"
        ]
    );
}

#[test]
fn routes_of_a_renamed_service_have_its_former_names() {
    let text = "[[service]]\nname = 'shop'\nwas = 'web'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n\
                [[service.route]]\npath = '/a'\nname = 'a'\nwas = 'b'\nbackends = ['127.0.0.1:5000']\n";
    let config = crate::parse(text, std::path::Path::new("test.toml")).unwrap();
    assert_eq!(config.services[0].was, ["web"]);
    assert_eq!(config.services[1].was, ["shop/b", "web/a", "web/b"]);
}

#[test]
fn files_and_backends_of_one_route_go_together_where_that_is_said() {
    let text = "[[service]]\nname = 'app'\nlisten = ['0.0.0.0:80']\nmode = 'http'\nbackends = ['127.0.0.1:1']\n\
                [[service.route]]\nfiles = { root = '/srv', missing = 'backends' }\n\
                [[service.route]]\npath = '/b'\nfiles = { root = '/srv', missing = 'backends' }\n\
                backends = ['127.0.0.1:2']\nprefix_rewrite = '/'\nprotocol = 'h2c'\n";
    let config = of(text);
    let routes = &config.services[0].http.as_ref().unwrap().routes;
    let otherwise: Vec<Option<&str>> = routes
        .iter()
        .map(|route| match &route.action {
            Action::Files { otherwise, .. } => otherwise.as_deref(),
            _ => None,
        })
        .collect();
    assert_eq!(otherwise, [Some("app"), Some("app/b")]);
    assert_eq!(routes[1].prefix_rewrite.as_deref(), Some(""));
    assert_eq!(config.services[1].backends.len(), 1);
    let problems = errors_with(
        "[[service.route]]\nfiles = '/srv'\nbackends = ['127.0.0.1:2']\n\
         [[service.route]]\npath = '/b'\nfiles = '/srv'\nprefix_rewrite = '/x'\n\
         [[service.route]]\npath = '/c'\nbackends = ['127.0.0.1:3']\nprefix_rewrite = 'x'\n",
    );
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(
        problems[0].contains("take missing = \"backends\" in files"),
        "{problems:#?}"
    );
    assert!(
        problems[1].contains("there is no backend to get another path"),
        "{problems:#?}"
    );
    assert!(problems[2].contains("prefix_rewrite"), "{problems:#?}");
}

#[test]
fn path_is_there_once_as_a_whole_and_once_as_a_beginning() {
    let route = "[[service.route]]\npath = '/a'\nanswer = {}\n";
    let exact = format!("{route}exact = true\n");
    assert!(errors_with(&format!("{route}{exact}")).is_empty());
    let twice = errors_with(&format!("{exact}{route}{exact}"));
    assert!(
        twice.len() == 1 && twice[0].contains("belongs to the route of line"),
        "{twice:?}"
    );
    let slash = errors_with(&exact.replace("'/a'", "'/a/'"));
    assert!(
        slash.len() == 1 && slash[0].contains("no slash at its end"),
        "{slash:?}"
    );
    assert!(errors_with(&exact.replace("'/a'", "'/'")).is_empty());
    let spelled = errors_with(&route.replace("'/a'", "'/%40a'"));
    assert!(
        spelled.len() == 1 && spelled[0].contains("write \"/@a\""),
        "{spelled:?}"
    );
}
