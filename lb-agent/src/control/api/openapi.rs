//! `docs/openapi.json` describes the routes of this server and no others.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::control::message::{AffinityFound, Lookup};

fn description() -> Value {
    serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap()
}

/// Method, path and description of each operation.
fn operations(description: &Value) -> Vec<(Method, &str, &Value)> {
    let paths = description["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, operations)| {
            let operations = operations.as_object().unwrap().iter();
            operations.map(move |(method, operation)| {
                let method = method.to_uppercase().parse().unwrap();
                (method, path.as_str(), operation)
            })
        })
        .collect()
}

/// A schema by its name.
fn schema<'d>(description: &'d Value, name: &str) -> &'d Value {
    &description["components"]["schemas"][name]
}

fn properties(schema: &Value) -> BTreeSet<&str> {
    let properties = schema["properties"].as_object().unwrap();
    properties.keys().map(String::as_str).collect()
}

/// The body of an operation: its schema's name and its examples. There are several where properties exclude each other.
fn body(operation: &Value) -> Option<(&str, Vec<&Value>)> {
    let content = operation.pointer("/requestBody/content/application~1json")?;
    let name = content["schema"]["$ref"].as_str()?.rsplit('/').next()?;
    let several = content["examples"].as_object().into_iter().flatten();
    let several = several.map(|(_, example)| &example["value"]);
    Some((
        name,
        content.get("example").into_iter().chain(several).collect(),
    ))
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let description = description();
    let key = |method: &Method, path: &str| format!("{method} {path}");
    let described: BTreeSet<String> = operations(&description)
        .iter()
        .map(|(method, path, _)| key(method, path))
        .collect();
    let served = ROUTES
        .iter()
        .map(|(method, path, _)| key(method, path))
        .collect();
    assert_eq!(described, served);
    let page = include_str!("../../../../docs/control-api.md");
    for route in described {
        assert!(page.contains(&format!("| `{route}` |")), "{route}");
    }
}

#[test]
fn every_example_is_taken_and_names_every_property() {
    let description = description();
    for (method, path, operation) in operations(&description) {
        let endpoint = endpoint(&method, path).unwrap();
        let mut query = form_urlencoded::Serializer::new(String::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let text = |key: &str| parameter[key].as_str().unwrap();
            query.append_pair(text("name"), text("example"));
        }
        let texts = match body(operation) {
            Some((name, examples)) => {
                let named = examples
                    .iter()
                    .flat_map(|example| example.as_object().unwrap());
                let named = named.map(|(property, _)| property.as_str()).collect();
                assert_eq!(properties(schema(&description, name)), named, "{path}");
                examples.iter().map(ToString::to_string).collect()
            }
            None => vec![String::new()],
        };
        let query = query.finish();
        for text in texts {
            let taken = command(endpoint, &query, text.as_bytes());
            assert!(taken.is_ok(), "{method} {path}: {taken:?}");
        }
    }
}

#[test]
fn required_properties_are_those_without_which_a_request_is_refused() {
    let description = description();
    for (method, path, operation) in operations(&description) {
        let Some((name, examples)) = body(operation) else {
            continue;
        };
        let required = schema(&description, name)["required"].as_array();
        for property in properties(schema(&description, name)) {
            let is_refused_without = |example: &&Value| {
                let mut less = (*example).clone();
                less.as_object_mut().unwrap().remove(property);
                let endpoint = endpoint(&method, path).unwrap();
                command(endpoint, "", less.to_string().as_bytes()).is_err()
            };
            let mut needed = required.into_iter().flatten();
            let needed = needed.any(|name| name == property);
            let refused = examples.iter().all(is_refused_without);
            assert_eq!(refused, needed, "{method} {path} without {property}");
        }
    }
}

#[test]
fn answers_have_the_described_properties() {
    let description = description();
    let backend: lb_config::BackendAddress = "127.0.0.1:5000".parse().unwrap();
    let lookup = Lookup {
        client: "203.0.113.9".parse().unwrap(),
        service: "web".to_owned(),
        stickiness: Default::default(),
        decided_by: Some("address".to_owned()),
        backend: Some(backend.clone()),
        reason: Some("slot".to_owned()),
        prefix: Some("203.0.113.9/32".to_owned()),
        slot: Some(1),
        order: vec![backend.clone()],
        candidates: vec![backend.clone()],
        affinity: Some(AffinityFound {
            backend,
            age_seconds: 1,
            expires_in_seconds: 2,
        }),
    };
    let refusal = RefusalDocument {
        error: String::new(),
        hint: None,
    };
    let answers = [
        ("Lookup", serde_json::to_value(lookup).unwrap()),
        ("Refusal", serde_json::to_value(refusal).unwrap()),
    ];
    for (name, answer) in answers {
        let given = answer.as_object().unwrap();
        let given: BTreeSet<&str> = given.keys().map(String::as_str).collect();
        assert_eq!(properties(schema(&description, name)), given, "{name}");
    }
}
