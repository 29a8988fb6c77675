//! Header rules: `{ set = "X-A", value = "$client_ip" }`, `{ add = … }`, `{ remove = "X-B" }`.

use ::http::HeaderName;

use super::template::{Part, Template, Variable};
use super::value;
use crate::error::Problems;
use crate::reader::{Table, Value};
use crate::schema::kinds::{Given, List, Made, Text, sub, text};
use crate::schema::{Field, Key, Kind, Show, section};
use crate::value::quoted;

const EXAMPLE: &str = "{ set = \"X-Client\", value = \"$client_ip\" }";

/// One change to the headers of a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// The header that is changed.
    pub name: HeaderName,
    /// The change that is made to it.
    pub operation: Operation,
}

/// The change that a rule makes to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The header gets this value and loses all others.
    Set(Template),
    /// The header gets this value beside the others.
    Add(Template),
    /// All lines of the header are removed.
    Remove,
}

const NAME: Text<HeaderName, String> = text("name of a header", "\"X-Client\"", changeable);
const VALUE: Text<Template, String> = text("text with variables", "\"$client_ip\"", header_value);

section! {
    Reload, "0.1";
    /// A change to the headers of a message. One of `set`, `add` and `remove` is given.
    struct Rule {
        /// Name of the header that gets `value` in place of all values it has.
        set: Option<Option<HeaderName>> = None, Given(NAME);
        /// Name of the header that gets `value` beside the values it has.
        add: Option<Option<HeaderName>> = None, Given(NAME);
        /// Name of the header that is taken away.
        remove: Option<Option<HeaderName>> = None, Given(NAME);
        /// The value, with variables as in `$client_ip`. Required with `set` and `add`.
        value: Option<Option<Template>> = None, OfRule;
    }
}

/// The value of a rule, which depends on the rule's operation.
struct OfRule;

impl Field<Option<Option<Template>>> for OfRule {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<Option<Option<Template>>> {
        let given = ["set", "add", "remove"].map(|key| table.has(key));
        match (table.take(key), given) {
            (None, [true, false, false] | [false, true, false]) => {
                let message = "value is missing (write value = \"$client_ip\")";
                problems.add(&table.place, message);
                None
            }
            (Some(value), [false, false, true]) => {
                let message = "nothing has a value that is removed (leave it out)";
                problems.add(&value.place, message);
                None
            }
            (Some(value), [true, false, false] | [false, true, false]) => {
                Given(VALUE).read(&value, problems)
            }
            _ => None,
        }
    }

    fn put(
        &self,
        key: &'static str,
        value: &Option<Option<Template>>,
        usual: &Option<Option<Template>>,
        show: Show,
        table: &mut toml::Table,
    ) {
        Given(VALUE).put(key, value, usual, show, table);
    }

    fn describe(&self, key: Key, usual: &Option<Option<Template>>, keys: &mut Vec<Key>) {
        Given(VALUE).describe(key, usual, keys);
    }
}

/// Rules for headers of responses.
pub(super) fn response_rules() -> List<impl Kind<Value = HeaderRule>> {
    let item = Made {
        of: sub(EXAMPLE),
        make: rule,
        back: Rule::of,
    };
    List("[{ set = \"X-Client\", value = \"$client_ip\" }]", item)
}

/// Rules for requests. A rule that adds a header with the backend in it is refused. It would add
/// the header again when the request is sent to another backend.
pub(super) fn request_rules() -> impl Kind<Value = Vec<HeaderRule>> {
    fn adds_backend(rule: &HeaderRule) -> bool {
        match &rule.operation {
            Operation::Add(value) => value.names(Variable::Backend),
            Operation::Set(_) | Operation::Remove => false,
        }
    }
    Made {
        of: response_rules(),
        make: |rules: Vec<HeaderRule>, value, problems| {
            if rules.iter().any(adds_backend) {
                problems.add(
                    &value.place,
                    "$backend cannot be added to a request, which may be sent twice (use set)",
                );
            }
            Some(rules)
        },
        back: Vec::clone,
    }
}

fn rule(rule: Rule, value: &Value<'_, '_>, problems: &mut Problems) -> Option<HeaderRule> {
    let Rule {
        set,
        add,
        remove,
        value: text,
    } = rule;
    let (name, operation) = match (set, add, remove) {
        (Some(name), None, None) => (name, text.flatten().map(Operation::Set)),
        (None, Some(name), None) => (name, text.flatten().map(Operation::Add)),
        (None, None, Some(name)) => (name, Some(Operation::Remove)),
        _ => {
            let message = format!("not one of set, add and remove (write it like {EXAMPLE})");
            problems.add(&value.place, message);
            return None;
        }
    };
    Some(HeaderRule {
        name: name?,
        operation: operation?,
    })
}

impl Rule {
    fn of(rule: &HeaderRule) -> Self {
        let name = Some(Some(rule.name.clone()));
        let usual = Self::default();
        match rule.operation.clone() {
            Operation::Set(value) => Self {
                set: name,
                value: Some(Some(value)),
                ..usual
            },
            Operation::Add(value) => Self {
                add: name,
                value: Some(Some(value)),
                ..usual
            },
            Operation::Remove => Self {
                remove: name,
                ..usual
            },
        }
    }
}

/// The name of a header that may be changed. Headers of the connection itself are refused (RFC
/// 9110, section 7.6.1), and so are those that frame a message.
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
