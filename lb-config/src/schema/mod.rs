//! The schema: each section of the configuration is declared once, by [`section!`].
//!
//! A declaration makes the struct with its defaults, reads it from TOML, and writes it as TOML. It
//! also describes its keys for the reference page and the JSON schema. A key without a doc comment,
//! a default or a kind does not compile.
//!
//! | file | owns |
//! | --- | --- |
//! | `kinds` | how values are read, written and described: numbers, texts, lists, tables |
//! | `fields` | how keys are taken from their table: required, flattened, for one mode alone |
//! | `shape` | the allowed values of a key, and the JSON schema made of that |
//! | `reference` | the tables of keys in docs/configuration.md |

pub(super) mod fields;
pub(super) mod kinds;
mod reference;
mod shape;

use super::error::Problems;
use super::reader::{Table, Value};
pub use reference::Reference;
pub(super) use reference::{Place, places, reference};
pub(super) use shape::Shape;
pub(super) use shape::json_schema;

/// The keys that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// The keys with another value than their default.
    Changed,
    /// All keys that have a value.
    Effective,
}

/// How a new value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The command `lb-agent reload` is enough.
    Reload,
    /// It takes a restart of the agent.
    Restart,
}

/// A key, as it is documented.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The doc comment, for the reference.
    pub(super) about: &'static str,
    pub(super) shape: Shape,
    /// The default; `None` without one.
    pub(super) default: Option<toml::Value>,
    /// The default in words, if it depends on the machine.
    pub(super) default_in_words: Option<&'static str>,
    pub(super) required: bool,
    pub(super) change: Change,
    /// The first version that has it.
    pub(super) since: &'static str,
}

/// A table of the configuration.
pub(super) trait Section: Default {
    /// Its name in Rust, which is unique.
    const NAME: &'static str;
    /// The doc comment of the section.
    const ABOUT: &'static str;
    /// Reads the keys of `table`.
    fn take(table: &mut Table<'_, '_>, problems: &mut Problems) -> Self;
    /// Writes the keys into `table`.
    fn put(&self, show: Show, table: &mut toml::Table);
    /// Its keys in their order.
    fn keys() -> Vec<Key>;
    /// Checks the rules between the keys of the section.
    fn check(&self, _table: &mut Table<'_, '_>, _problems: &mut Problems) {}
}

/// How values are read, written and described.
pub(super) trait Kind {
    /// The type of a value in Rust.
    type Value;
    /// Reads `value` and notes its problems. `None` if it cannot be used.
    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value>;
    /// `value` in TOML; `None` if it stands for a key that is left out.
    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value>;
    /// The values that are allowed.
    fn shape(&self) -> Shape;
}

/// How a field of a section is taken from its table. Every [`Kind`] is a field with one key.
pub(super) trait Field<T> {
    /// Takes the field; `None` for the default.
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<T>;
    /// Writes the field, unless it is the default and `show` leaves defaults out.
    fn put(&self, key: &'static str, value: &T, usual: &T, show: Show, table: &mut toml::Table);
    /// Adds the keys of the field. `key` is complete but for shape and default.
    fn describe(&self, key: Key, usual: &T, keys: &mut Vec<Key>);
}

impl<K: Kind> Field<K::Value> for K {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<K::Value> {
        self.read(&table.take(key)?, problems)
    }

    fn put(
        &self,
        key: &'static str,
        value: &K::Value,
        usual: &K::Value,
        show: Show,
        table: &mut toml::Table,
    ) {
        let written = self.write(value, show);
        if let Some(written) = written
            && (show == Show::Effective || self.write(usual, show).as_ref() != Some(&written))
        {
            table.insert(key.to_owned(), written);
        }
    }

    fn describe(&self, key: Key, usual: &K::Value, keys: &mut Vec<Key>) {
        keys.push(Key {
            shape: self.shape(),
            default: self.write(usual, Show::Effective),
            ..key
        });
    }
}

/// Reads a whole table, and notes unknown keys.
pub(super) fn read<S: Section>(mut table: Table<'_, '_>, problems: &mut Problems) -> S {
    let section = S::take(&mut table, problems);
    section.check(&mut table, problems);
    table.finish(problems);
    section
}

/// Declares a section:
///
/// ```text
/// section! {
///     Reload, "0.1";
///     /// Connections to backends.
///     pub struct Upstream {
///         /// Failures after which a backend is ejected.
///         pub max_fails: u32 = 5, whole(0..=1_000_000, "failures");
///     }
/// }
/// ```
///
/// The first line says how changes take effect, and the version that brought the keys. A field may have a key of
/// another name (`as "type"`), a version of its own (`since "0.2"`), and its default in words (`shown "…"`).
/// `check = function;` after the version is for rules between keys.
macro_rules! section {
    (
        $change:ident, $since:literal; $(check = $check:path;)?
        $(#[doc = $about:literal])+ $(#[derive($($derive:ident),+)])?
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $fvis:vis $field:ident $(as $key:literal)?: $type:ty = $default:expr,
                    $kind:expr $(, since $from:literal)? $(, shown $shown:literal)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq $($(, $derive)+)?)]
        $vis struct $name {
            $($(#[doc = $doc])+ $fvis $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::schema::Section for $name {
            const NAME: &'static str = stringify!($name);
            const ABOUT: &'static str = concat!($($about, "\n"),+);

            fn take(
                table: &mut $crate::reader::Table<'_, '_>,
                problems: &mut $crate::error::Problems,
            ) -> Self {
                use $crate::schema::{Field, section};
                Self {
                    $($field: {
                        let key = section!(@key $field $($key)?);
                        let taken: Option<$type> = Field::take(&$kind, key, table, problems);
                        taken.unwrap_or_else(|| $default)
                    },)+
                }
            }

            fn put(&self, show: $crate::schema::Show, table: &mut toml::Table) {
                use $crate::schema::{Field, section};
                $(
                    let usual: $type = $default;
                    Field::<$type>::put(
                        &$kind, section!(@key $field $($key)?), &self.$field, &usual, show, table,
                    );
                )+
            }

            fn keys() -> Vec<$crate::schema::Key> {
                use $crate::schema::{Change, Field, Key, Shape, section};
                let mut keys = Vec::new();
                $(
                    let key = Key {
                        name: section!(@key $field $($key)?),
                        about: concat!($($doc, "\n"),+),
                        shape: Shape::Flag,
                        default: None,
                        default_in_words: section!(@optional $($shown)?),
                        required: false,
                        change: Change::$change,
                        since: section!(@since $since $($from)?),
                    };
                    let usual: $type = $default;
                    Field::<$type>::describe(&$kind, key, &usual, &mut keys);
                )+
                keys
            }

            $(
                fn check(
                    &self,
                    table: &mut $crate::reader::Table<'_, '_>,
                    problems: &mut $crate::error::Problems,
                ) {
                    $check(self, table, problems);
                }
            )?
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@optional) => { None };
    (@optional $text:literal) => { Some($text) };
    (@since $section:literal) => { $section };
    (@since $section:literal $own:literal) => { $own };
}
pub(super) use section;
