//! How values are read, written and described.

use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Kind, Section, Shape, Show};
use crate::choice::Choice;
use crate::error::{Located, Problems};
use crate::reader::Value;

/// A text with a meaning.
pub(crate) struct Text<T, E> {
    /// The meaning of the text, for the reference.
    pub(crate) what: &'static str,
    /// An example, as TOML with its quotes.
    pub(crate) example: &'static str,
    /// Makes a value of the text.
    pub(crate) parse: fn(&str) -> Result<T, E>,
    /// Makes the text of a value.
    pub(crate) print: fn(&T) -> String,
}

impl<T, E: Display> Kind for Text<T, E> {
    type Value = T;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        value.string(self.example, problems, self.parse)
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        Some((self.print)(value).into())
    }

    fn shape(&self) -> Shape {
        Shape::Text {
            what: self.what,
            example: self.example,
        }
    }
}

/// A text with values that are printed by [`Display`].
pub(crate) const fn text<T: Display, E>(
    what: &'static str,
    example: &'static str,
    parse: fn(&str) -> Result<T, E>,
) -> Text<T, E> {
    Text {
        what,
        example,
        parse,
        print: T::to_string,
    }
}

/// The path of a file.
pub(crate) const fn path<E>(
    what: &'static str,
    example: &'static str,
    parse: fn(&str) -> Result<PathBuf, E>,
) -> Text<PathBuf, E> {
    Text {
        what,
        example,
        parse,
        print: |path| Path::display(path).to_string(),
    }
}

/// A duration, as in "90s".
pub(crate) const fn time<E>(
    example: &'static str,
    parse: fn(&str) -> Result<Duration, E>,
) -> Text<Duration, E> {
    Text {
        what: "duration",
        example,
        parse,
        print: |duration| duration_text(*duration),
    }
}

/// `duration` in the largest unit that holds it in whole numbers; a day alone in hours and a minute in seconds.
pub(crate) fn duration_text(duration: Duration) -> String {
    const UNITS: [(u128, u128, &str); 7] = [
        (86_400_000_000_000, 2, "d"),
        (3_600_000_000_000, 1, "h"),
        (60_000_000_000, 2, "m"),
        (1_000_000_000, 1, "s"),
        (1_000_000, 1, "ms"),
        (1_000, 1, "us"),
        (1, 1, "ns"),
    ];
    let all = duration.as_nanos();
    let fits = |(unit, fewest, _): &&(u128, u128, &str)| {
        all.is_multiple_of(*unit) && all / unit >= *fewest
    };
    match UNITS.iter().find(fits) {
        Some((unit, _, name)) => format!("{}{name}", all / unit),
        None => "0s".to_owned(),
    }
}

/// A whole number within a range, with a unit.
pub(crate) struct Whole<T> {
    range: RangeInclusive<T>,
    unit: &'static str,
}

/// A whole number in `range`, of `unit`.
pub(crate) const fn whole<T>(range: RangeInclusive<T>, unit: &'static str) -> Whole<T> {
    Whole { range, unit }
}

impl<T> Kind for Whole<T>
where
    T: TryFrom<i128> + TryInto<i64> + PartialOrd + Display + Copy,
{
    type Value = T;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        value.integer_in(self.range.clone(), problems)
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        Some(toml::Value::Integer((*value).try_into().ok()?))
    }

    fn shape(&self) -> Shape {
        Shape::Whole {
            least: (*self.range.start()).try_into().unwrap_or(i64::MIN),
            most: (*self.range.end()).try_into().unwrap_or(i64::MAX),
            unit: self.unit,
        }
    }
}

/// A whole number with a meaning of its own.
pub(crate) struct Code<T, E> {
    /// An example of the number, for messages.
    pub(crate) example: &'static str,
    /// The least and the greatest number.
    pub(crate) range: RangeInclusive<i64>,
    /// Makes a value of the number.
    pub(crate) parse: fn(i128) -> Result<T, E>,
    /// Makes the number of a value.
    pub(crate) print: fn(&T) -> i64,
}

impl<T, E: Display> Kind for Code<T, E> {
    type Value = T;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let number = value.integer(self.example, problems)?;
        problems.keep(&value.place, (self.parse)(number))
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        Some((self.print)(value).into())
    }

    fn shape(&self) -> Shape {
        Shape::Whole {
            least: *self.range.start(),
            most: *self.range.end(),
            unit: "",
        }
    }
}

/// A number with up to three digits after the point, kept in thousandths.
pub(crate) struct Thousandths {
    /// An example of the number, for messages.
    pub(crate) example: &'static str,
    /// The least and the greatest number.
    pub(crate) range: RangeInclusive<f64>,
    /// The remedy for a number out of range.
    pub(crate) remedy: &'static str,
    /// The unit that it is a part or a multiple of.
    pub(crate) unit: &'static str,
}

impl Kind for Thousandths {
    type Value = u32;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let number = value.number(self.example, problems)?;
        if !self.range.contains(&number) {
            let message = format!("{number} is out of range ({})", self.remedy);
            problems.add(&value.place, message);
            return None;
        }
        Some((number * 1000.0).round() as u32)
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        Some((f64::from(*value) / 1000.0).into())
    }

    fn shape(&self) -> Shape {
        Shape::Number {
            least: *self.range.start(),
            most: *self.range.end(),
            unit: self.unit,
        }
    }
}

/// A boolean: `true` or `false`.
pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        value.boolean(problems)
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        Some((*value).into())
    }

    fn shape(&self) -> Shape {
        Shape::Flag
    }
}

/// One of the names of a [`Choice`].
pub(crate) struct OneOf<T>(PhantomData<T>);

/// One of the names of `T`.
pub(crate) const fn one_of<T: Choice>() -> OneOf<T> {
    OneOf(PhantomData)
}

impl<T: Choice> Kind for OneOf<T> {
    type Value = T;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        value.choice(problems)
    }

    fn write(&self, value: &Self::Value, _: Show) -> Option<toml::Value> {
        let named = T::ALL.iter().find(|(_, choice, _)| choice == value);
        named.map(|(name, ..)| (*name).into())
    }

    fn shape(&self) -> Shape {
        let names = T::ALL.iter().map(|(name, _, about)| (*name, about.trim()));
        Shape::Choice(names.collect())
    }
}

/// A key that may be left out.
pub(crate) struct Maybe<K>(pub(crate) K);

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        self.0.read(value, problems).map(Some)
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.0.write(value.as_ref()?, show)
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

/// A value; zero stands for none.
pub(crate) struct UnlessZero<K>(pub(crate) K);

impl<K: Kind<Value: Default + PartialEq>> Kind for UnlessZero<K> {
    type Value = Option<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let read = self.0.read(value, problems)?;
        Some((read != K::Value::default()).then_some(read))
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        match value {
            Some(value) => self.0.write(value, show),
            None => self.0.write(&K::Value::default(), show),
        }
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

/// A value with its place.
pub(crate) struct Placed<K>(pub(crate) K);

impl<K: Kind> Kind for Placed<K> {
    type Value = Located<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        self.0.read(value, problems).map(|read| value.locate(read))
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.0.write(&value.value, show)
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

/// A key that may be missing. Inside, `None` stands for a value that is not good.
pub(crate) struct Given<K>(pub(crate) K);

impl<K: Kind> Kind for Given<K> {
    type Value = Option<Option<K::Value>>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        Some(Some(self.0.read(value, problems)))
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.0.write(value.as_ref()?.as_ref()?, show)
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

/// A list. Items that are not good are left out.
pub(crate) struct List<K>(
    /// An example of the list, for messages.
    pub(crate) &'static str,
    pub(crate) K,
);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let items = value.list(self.0, problems);
        let read = items.iter().filter_map(|item| self.1.read(item, problems));
        Some(read.collect())
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        let items = value.iter().filter_map(|item| self.1.write(item, show));
        Some(toml::Value::Array(items.collect()))
    }

    fn shape(&self) -> Shape {
        Shape::List(Box::new(self.1.shape()))
    }
}

/// A list that may not be empty.
pub(crate) struct NonEmpty<K> {
    /// The list that may not be empty.
    pub(crate) list: List<K>,
    /// The message about an empty list.
    pub(crate) empty: String,
}

impl<K: Kind> Kind for NonEmpty<K> {
    type Value = Vec<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        if value.is_empty_list() {
            problems.add(&value.place, &self.empty);
        }
        self.list.read(value, problems)
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        // An empty list cannot be read, so it is not written.
        let written = (!value.is_empty()).then(|| self.list.write(value, show));
        written.flatten()
    }

    fn shape(&self) -> Shape {
        self.list.shape()
    }
}

/// A list, or one item without the brackets.
pub(crate) struct OneOrMore<L, K>(
    /// The kind of the whole list.
    pub(crate) L,
    /// The kind of a single item.
    pub(crate) K,
);

impl<L: Kind<Value = Vec<K::Value>>, K: Kind> Kind for OneOrMore<L, K> {
    type Value = Vec<K::Value>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        if value.is_string() {
            return Some(self.1.read(value, problems).into_iter().collect());
        }
        self.0.read(value, problems)
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.0.write(value, show)
    }

    fn shape(&self) -> Shape {
        Shape::Either(vec![self.0.shape(), self.1.shape()])
    }
}

/// A table that is a section.
pub(crate) struct Sub<S> {
    example: &'static str,
    section: PhantomData<S>,
}

/// The section `S`, with an example.
pub(crate) const fn sub<S: Section>(example: &'static str) -> Sub<S> {
    Sub {
        example,
        section: PhantomData,
    }
}

impl<S: Section> Kind for Sub<S> {
    type Value = S;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        Some(super::read(value.table(self.example, problems)?, problems))
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        let mut table = toml::Table::new();
        value.put(show, &mut table);
        Some(toml::Value::Table(table))
    }

    fn shape(&self) -> Shape {
        Shape::table::<S>()
    }
}

/// A value that is made of another one. `make` notes problems; `back` is for writing.
pub(crate) struct Made<K: Kind, U> {
    /// The kind of the other value.
    pub(crate) of: K,
    /// Makes the value; `None` if a problem was noted.
    pub(crate) make: fn(K::Value, &Value<'_, '_>, &mut Problems) -> Option<U>,
    /// The reverse of `make`, for writing.
    pub(crate) back: fn(&U) -> K::Value,
}

impl<K: Kind, U> Kind for Made<K, U> {
    type Value = U;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let read = self.of.read(value, problems)?;
        (self.make)(read, value, problems)
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.of.write(&(self.back)(value), show)
    }

    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

/// A value that is taken only if no problem was noted in it.
pub(crate) struct Sound<K>(pub(crate) K);

impl<K: Kind> Kind for Sound<K> {
    type Value = K::Value;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let found = problems.count();
        let read = self.0.read(value, problems)?;
        (problems.count() == found).then_some(read)
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        self.0.write(value, show)
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

/// A text or a table. It is written as a text if `brief` finds one for it.
pub(crate) struct Short<K: Kind, L> {
    /// The kind that reads a text.
    pub(crate) text: K,
    /// The kind that reads a table.
    pub(crate) table: L,
    /// Whether a value is written as text, as a table would say no more.
    pub(crate) brief: fn(&K::Value) -> bool,
    /// Whether a value of another type is said to be no text. Otherwise it is said to be no table.
    pub(crate) else_text: bool,
}

impl<K: Kind, L: Kind<Value = K::Value>> Kind for Short<K, L> {
    type Value = K::Value;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Self::Value> {
        let is_text = if self.else_text {
            !value.is_table()
        } else {
            value.is_string()
        };
        if is_text {
            self.text.read(value, problems)
        } else {
            self.table.read(value, problems)
        }
    }

    fn write(&self, value: &Self::Value, show: Show) -> Option<toml::Value> {
        if (self.brief)(value) {
            self.text.write(value, show)
        } else {
            self.table.write(value, show)
        }
    }

    fn shape(&self) -> Shape {
        Shape::Either(vec![self.text.shape(), self.table.shape()])
    }
}
