//! How keys are taken from their table.

use super::{Field, Key, Kind, Section, Show};
use crate::error::{Place, Problems};
use crate::reader::Table;

/// A required key, with an example for messages.
pub(crate) struct Required<K>(pub(crate) &'static str, pub(crate) K);

impl<K: Kind> Field<K::Value> for Required<K> {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<K::Value> {
        let value = table.require(key, self.0, problems)?;
        self.1.read(&value, problems)
    }

    fn put(
        &self,
        key: &'static str,
        value: &K::Value,
        _: &K::Value,
        show: Show,
        table: &mut toml::Table,
    ) {
        if let Some(written) = self.1.write(value, show) {
            table.insert(key.to_owned(), written);
        }
    }

    fn describe(&self, key: Key, _: &K::Value, keys: &mut Vec<Key>) {
        keys.push(Key {
            shape: self.1.shape(),
            required: true,
            ..key
        });
    }
}

/// A section with its keys in the table of the section that it is a field of.
pub(crate) struct Flat;

impl<S: Section> Field<S> for Flat {
    fn take(
        &self,
        _: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<S> {
        let section = S::take(table, problems);
        section.check(table, problems);
        Some(section)
    }

    fn put(&self, _: &'static str, value: &S, _: &S, show: Show, table: &mut toml::Table) {
        value.put(show, table);
    }

    fn describe(&self, _: Key, _: &S, keys: &mut Vec<Key>) {
        keys.extend(S::keys());
    }
}

/// A field without a key, for the program's own use.
pub(crate) struct NoKey;

impl<T> Field<T> for NoKey {
    fn take(&self, _: &'static str, _: &mut Table<'_, '_>, _: &mut Problems) -> Option<T> {
        None
    }

    fn put(&self, _: &'static str, _: &T, _: &T, _: Show, _: &mut toml::Table) {}

    fn describe(&self, _: Key, _: &T, _: &mut Vec<Key>) {}
}

/// A field without a key, computed from the table.
pub(crate) struct Found<T>(pub(crate) fn(&Table<'_, '_>, &Problems) -> T);

impl<T> Field<T> for Found<T> {
    fn take(
        &self,
        _: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<T> {
        Some((self.0)(table, problems))
    }

    fn put(&self, _: &'static str, _: &T, _: &T, _: Show, _: &mut toml::Table) {}

    fn describe(&self, _: Key, _: &T, _: &mut Vec<Key>) {}
}

/// The place of the table itself.
pub(crate) const PLACE: Found<Place> = Found(|table, _| table.place.clone());

/// A key that only some tables may have: `why_not` says why this one may not.
pub(crate) struct OnlyIf<F> {
    /// The key itself.
    pub(crate) key: F,
    /// Checks the table that is read. Returns a message if the key is out of place.
    pub(crate) why_not: fn(&Table<'_, '_>) -> Option<&'static str>,
    /// Whether the key belongs into the table that is written.
    pub(crate) written: fn(&toml::Table) -> bool,
}

impl<T, F: Field<T>> Field<T> for OnlyIf<F> {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<T> {
        if let Some(message) = (self.why_not)(table) {
            if let Some(value) = table.take(key) {
                problems.add(&value.place, message);
            }
            return None;
        }
        self.key.take(key, table, problems)
    }

    fn put(&self, key: &'static str, value: &T, usual: &T, show: Show, table: &mut toml::Table) {
        if (self.written)(table) {
            self.key.put(key, value, usual, show, table);
        }
    }

    fn describe(&self, key: Key, usual: &T, keys: &mut Vec<Key>) {
        self.key.describe(key, usual, keys);
    }
}
