//! Header rules: `{ set = "X-A", value = "$client_ip" }`, `{ add = … }`, `{ remove = "X-B" }`.

use ::http::HeaderName;

use super::template::{Part, Template, Variable};
use super::value;
use crate::error::Problems;
use crate::reader::{Table, Value};
use crate::value::quoted;

const EXAMPLE: &str = "{ set = \"X-Client\", value = \"$client_ip\" }";

/// One change to the headers of a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Of which header.
    pub name: HeaderName,
    /// What is done to it.
    pub operation: Operation,
}

/// What a rule does to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It has this value and no other.
    Set(Template),
    /// It has this value beside those that it has.
    Add(Template),
    /// It is not there.
    Remove,
}

pub(super) fn rules(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<HeaderRule> {
    value
        .list(&format!("[{EXAMPLE}]"), problems)
        .iter()
        .filter_map(|item| rule(item.table(EXAMPLE, problems)?, problems))
        .collect()
}

/// Rules for requests: one that adds a header with the backend in it would add it again when the
/// request is sent to another one.
pub(super) fn request_rules(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<HeaderRule> {
    let rules = rules(value, problems);
    let adds_backend = |rule: &HeaderRule| match &rule.operation {
        Operation::Add(value) => value.names(Variable::Backend),
        Operation::Set(_) | Operation::Remove => false,
    };
    if rules.iter().any(adds_backend) {
        problems.add(
            &value.place,
            "$backend cannot be added to a request, which may be sent twice (use set)",
        );
    }
    rules
}

fn rule(mut table: Table<'_, '_>, problems: &mut Problems) -> Option<HeaderRule> {
    let mut name = |key, problems: &mut Problems| {
        let value = table.take(key)?;
        Some(value.string("\"X-Client\"", problems, changeable))
    };
    let named = [
        name("set", problems),
        name("add", problems),
        name("remove", problems),
    ];
    let value = table.take("value");
    let place = table.place.clone();
    table.finish(problems);
    let text = |problems: &mut Problems| match &value {
        Some(value) => value.string("\"$client_ip\"", problems, header_value),
        None => {
            problems.add(&place, "value is missing (write value = \"$client_ip\")");
            None
        }
    };
    let (name, operation) = match named {
        [Some(name), None, None] => (name, text(problems).map(Operation::Set)),
        [None, Some(name), None] => (name, text(problems).map(Operation::Add)),
        [None, None, Some(name)] => {
            if let Some(value) = &value {
                problems.add(
                    &value.place,
                    "nothing has a value that is removed (leave it out)",
                );
            }
            (name, Some(Operation::Remove))
        }
        _ => {
            let message = format!("not one of set, add and remove (write it like {EXAMPLE})");
            problems.add(&place, message);
            return None;
        }
    };
    Some(HeaderRule {
        name: name?,
        operation: operation?,
    })
}

/// The name of a header that is not the connection's own (RFC 9110, section 7.6.1): what frames a
/// message is not anybody's to change.
fn changeable(text: &str) -> Result<HeaderName, String> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = value::header_name(text).map_err(|error| error.to_string())?;
    if FRAMING.contains(&name.as_str()) {
        return Err(format!(
            "{text} belongs to the connection and is set as it must be (leave it out)"
        ));
    }
    Ok(name)
}

fn header_value(text: &str) -> Result<Template, String> {
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    let visible = |part: &Part| match part {
        Part::Literal(text) => text
            .bytes()
            .all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte)),
        Part::Variable(_) => true,
    };
    if !template.parts.iter().all(visible) || text.trim() != text {
        return Err(format!(
            "{} is not the value of a header (use visible ASCII, without a space at either end)",
            quoted(text)
        ));
    }
    Ok(template)
}
