//! The stored answers of all services, shared by the workers and bounded by bytes. Eviction is that of `quick_cache`, a
//! CLOCK-Pro much like S3-FIFO: objects that are asked for once make room first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::body::Bytes as Body;
use lb_net::clock::boot_ns;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::figures::{CacheFigures, Purge, StoredObject};
use super::flights::{Flights, Joined};
use super::object::Object;
use super::vary;
use crate::metrics::CacheResult;
use lb_http1::Fields;

/// Bytes of an object in the mean, by which the index is sized at first.
const USUAL: u64 = 16 * 1024;
/// Parts of the store, each with a lock of its own, at most. An object has to fit into one of them.
const MOST_PARTS: u64 = 16;
const OBJECTS_OF_A_PART: u64 = 8;
/// How long a URL whose answers cannot be stored is known to be such, nanoseconds. Its requests do not wait for
/// each other meanwhile.
const PASSING_NS: u64 = 60 * 1_000_000_000;

/// One entry.
#[derive(Clone, Debug)]
enum Entry {
    Object(Arc<Object>),
    /// The answers vary on these names of request fields.
    Variants(Arc<Variants>),
    /// Answers cannot be stored, until then.
    Passing(u64),
    /// The body of an object in a coding.
    Coded(Body),
}

/// The names that the answers of one URL vary on.
#[derive(Debug)]
struct Variants {
    names: Vec<Box<[u8]>>,
    /// In the keys of its variants: those of an index before it are not found any more.
    id: u64,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Box<[u8]>, Entry> for Bytes {
    fn weight(&self, key: &Box<[u8]>, entry: &Entry) -> u64 {
        // An entry without an object takes as much as one without a body.
        const BARE: usize = 256;
        let bytes = match entry {
            Entry::Object(object) => object.memory(key.len()),
            Entry::Passing(_) => BARE + key.len(),
            Entry::Coded(body) => BARE + key.len() + body.len(),
            Entry::Variants(variants) => {
                let names = variants
                    .names
                    .iter()
                    .map(|name| name.len() + size_of_val(name));
                BARE + key.len() + names.sum::<usize>()
            }
        };
        bytes as u64
    }
}

type Entries =
    Cache<Box<[u8]>, Entry, Bytes, foldhash::fast::RandomState, DefaultLifecycle<Box<[u8]>, Entry>>;

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    entries: Entries,
    /// Most bytes of a body.
    pub(crate) object: u64,
    flights: Arc<Flights>,
    ids: AtomicU64,
    /// Grows with every purge: an answer that was asked for before one is not stored.
    purges: AtomicU64,
    results: [AtomicU64; CacheResult::ALL.len()],
}

/// The outcome of a look-up.
#[derive(Debug)]
pub(crate) enum Found {
    Object(Arc<Object>),
    /// Nothing; the key that an answer is waited for under.
    Nothing(Vec<u8>),
    /// Answers cannot be stored.
    Passing,
}

impl Store {
    /// One of so many bytes, for bodies of up to `object` bytes.
    pub(crate) fn new(memory: u64, object: u64) -> Self {
        let fitting = memory / object.max(1).saturating_mul(OBJECTS_OF_A_PART).max(1);
        let parts = fitting.clamp(1, MOST_PARTS) as usize;
        let options = OptionsBuilder::new()
            .shards(parts)
            .estimated_items_capacity((memory / USUAL).clamp(64, 1 << 20) as usize)
            .weight_capacity(memory)
            .build();
        let options = options.expect("a capacity is given");
        Self {
            entries: Cache::with_options(options, Bytes, Default::default(), Default::default()),
            object,
            flights: Arc::default(),
            ids: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            results: Default::default(),
        }
    }

    /// The body of `object` in the coding with this number, made by `code` if it is not there.
    pub(crate) fn coded(
        &self,
        object: &Object,
        coding: u8,
        code: impl FnOnce() -> io::Result<Body>,
    ) -> io::Result<Body> {
        // No URL begins so.
        let mut key = [0; 10];
        key[1..9].copy_from_slice(&object.id.to_le_bytes());
        key[9] = coding;
        if let Some(Entry::Coded(body)) = self.entries.get(&key[..]) {
            return Ok(body);
        }
        let body = code()?;
        self.entries
            .insert(key[..].into(), Entry::Coded(body.clone()));
        Ok(body)
    }

    /// Looks for the answer to a request with this key and these fields.
    pub(crate) fn find(&self, key: &[u8], request: &Fields) -> Found {
        match self.entries.get(key) {
            None => Found::Nothing(key.to_vec()),
            Some(Entry::Object(object)) => Found::Object(object),
            Some(Entry::Passing(until)) if boot_ns() < until => Found::Passing,
            Some(Entry::Passing(_) | Entry::Coded(_)) => Found::Nothing(key.to_vec()),
            Some(Entry::Variants(variants)) => {
                let key = variants.key(key, request);
                match self.entries.get(&*key) {
                    Some(Entry::Object(object)) => Found::Object(object),
                    Some(Entry::Passing(until)) if boot_ns() < until => Found::Passing,
                    _ => Found::Nothing(key),
                }
            }
        }
    }

    /// Waits for an answer that is on its way, or is to bring it.
    pub(crate) fn join(&self, key: &[u8]) -> Joined {
        self.flights.join(key)
    }

    /// How many purges there were.
    pub(crate) fn purges(&self) -> u64 {
        self.purges.load(Relaxed)
    }

    /// Stores the answer to a request, unless there was a purge since `purges` were counted. It varies on what it says
    /// itself, and on `others`.
    pub(crate) fn put(
        &self,
        key: &[u8],
        (request, others): (&Fields, &[Box<[u8]>]),
        object: Arc<Object>,
        purges: u64,
    ) {
        let names = vary::names(&object.head.fields, others);
        let place = if names.is_empty() {
            key.to_vec()
        } else {
            self.variants(key, names).key(key, request)
        };
        self.entries
            .insert(place.as_slice().into(), Entry::Object(object));
        if self.purges() != purges {
            self.entries.remove(place.as_slice());
        }
    }

    /// The index of the variants under `key`: the one that is there, if it is for the same names.
    fn variants(&self, key: &[u8], names: Vec<Box<[u8]>>) -> Arc<Variants> {
        if let Some(Entry::Variants(known)) = self.entries.peek(key)
            && known.names == names
        {
            return known;
        }
        let id = self.ids.fetch_add(1, Relaxed);
        let variants = Arc::new(Variants { names, id });
        self.entries
            .insert(key.into(), Entry::Variants(Arc::clone(&variants)));
        variants
    }

    /// Notes that answers under `key` cannot be stored: if there are variants, that of this request alone.
    pub(crate) fn pass(&self, key: &[u8], request: &Fields) {
        let place = match self.entries.peek(key) {
            Some(Entry::Variants(variants)) => variants.key(key, request),
            _ => key.to_vec(),
        };
        self.entries
            .insert(place.into(), Entry::Passing(boot_ns() + PASSING_NS));
    }

    /// Forgets what is stored under `key` in all its variants, and what is on its way.
    pub(crate) fn invalidate(&self, key: &[u8]) {
        self.flights.spoil(key);
        self.entries.remove(key);
    }

    /// Removes answers: how many.
    pub(crate) fn purge(&self, what: &Purge) -> u64 {
        self.purges.fetch_add(1, Relaxed);
        let removed = AtomicU64::new(0);
        self.entries.retain(|_, entry| match entry {
            Entry::Object(object) if what.covers(object) => {
                removed.fetch_add(1, Relaxed);
                false
            }
            Entry::Object(_) => true,
            Entry::Variants(_) | Entry::Passing(_) | Entry::Coded(_) => !matches!(what, Purge::All),
        });
        removed.into_inner()
    }

    /// Counts a request.
    pub(crate) fn count(&self, result: CacheResult) {
        self.results[result as usize].fetch_add(1, Relaxed);
    }

    /// Its size, and what it did.
    pub(crate) fn figures(&self) -> CacheFigures {
        CacheFigures {
            bytes: self.entries.weight(),
            capacity: self.entries.capacity(),
            entries: self.entries.len() as u64,
            requests: std::array::from_fn(|at| self.results[at].load(Relaxed)),
        }
    }

    /// The objects whose URL begins with `prefix`, those with the most hits first, at most `most`.
    pub(crate) fn objects(&self, prefix: &str, most: usize) -> Vec<StoredObject> {
        let mut objects: Vec<StoredObject> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match entry {
                Entry::Object(object) if object.url.starts_with(prefix.as_bytes()) => {
                    Some(StoredObject {
                        url: String::from_utf8_lossy(&object.url).into_owned(),
                        bytes: object.memory(key.len()) as u64,
                        hits: object.hits.load(Relaxed),
                        age_s: object.age(),
                        lifetime_s: object.terms.lifetime,
                    })
                }
                _ => None,
            })
            .collect();
        objects.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.url.cmp(&b.url)));
        objects.truncate(most);
        objects
    }
}

impl Variants {
    /// The key of the variant for a request.
    fn key(&self, primary: &[u8], request: &Fields) -> Vec<u8> {
        let mut key = [primary, b"\n", &self.id.to_le_bytes()].concat();
        vary::add(&mut key, &self.names, request);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::policy::Terms;
    use hyper::StatusCode;
    use lb_http1::{Name, ResponseHead};

    fn object(url: &str, vary: &str, size: usize) -> Arc<Object> {
        let mut head = ResponseHead::new(StatusCode::OK);
        if !vary.is_empty() {
            head.fields.append(Name::Vary, vary.as_bytes());
        }
        let body = vec![b'x'; size].into();
        Arc::new(Object::new(url.as_bytes(), &head, body, Terms::default()))
    }

    fn all(store: &Store) -> Vec<StoredObject> {
        store.objects("", usize::MAX)
    }

    fn request(language: &str) -> Fields {
        let mut fields = Fields::new();
        fields.append_called(b"accept-language", language.as_bytes());
        fields
    }

    fn has(store: &Store, key: &str, language: &str) -> bool {
        matches!(
            store.find(key.as_bytes(), &request(language)),
            Found::Object(_)
        )
    }

    #[test]
    fn bytes_are_bounded_under_a_flood_of_urls_and_those_in_use_stay() {
        const MEMORY: u64 = 4 << 20;
        let store = Store::new(MEMORY, 64 << 10);
        let put = |at: usize, size| {
            let url = format!("http://a/{at}");
            store.put(
                url.as_bytes(),
                (&Fields::new(), &[]),
                object(&url, "", size),
                0,
            );
        };
        put(0, 1000);
        for at in 1..100_000 {
            put(at, at % 3000);
            if at % 10 == 0 {
                assert!(has(&store, "http://a/0", ""), "after {at}");
            }
        }
        let CacheFigures {
            bytes: taken,
            capacity: most,
            ..
        } = store.figures();
        let counted: u64 = all(&store).iter().map(|object| object.bytes).sum();
        assert_eq!(counted, taken);
        assert!(
            taken <= most && taken > MEMORY / 2 && most <= MEMORY,
            "{taken} of {most}"
        );
    }

    #[test]
    fn variants_are_apart_and_go_together() {
        let store = Store::new(1 << 20, 1 << 10);
        for language in ["de", "en"] {
            let one = object("http://a/", "Accept-Language", 1);
            store.put(b"k", (&request(language), &[]), one, 0);
        }
        assert!(has(&store, "k", "de") && has(&store, "k", "en") && !has(&store, "k", "fr"));
        store.invalidate(b"k");
        assert!(!has(&store, "k", "de"));
        store.put(
            b"k",
            (&request("fr"), &[]),
            object("http://a/", "accept-language", 1),
            0,
        );
        assert!(has(&store, "k", "fr") && !has(&store, "k", "de") && !has(&store, "k", "en"));
    }

    #[test]
    fn purges_are_by_url_by_prefix_and_of_all() {
        let store = Store::new(1 << 20, 1 << 10);
        let fill = || {
            for url in ["http://a/", "http://a/x", "http://b/"] {
                store.put(
                    url.as_bytes(),
                    (&Fields::new(), &[]),
                    object(url, "", 1),
                    store.purges(),
                );
            }
        };
        for (purge, removed, left) in [
            (Purge::Url("http://a/".into()), 1, 2),
            (Purge::Url("http://a".into()), 0, 3),
            (Purge::Prefix("http://a/".into()), 2, 1),
            (Purge::All, 3, 0),
        ] {
            fill();
            assert_eq!(store.purge(&purge), removed, "{purge:?}");
            assert_eq!(all(&store).len(), left, "{purge:?}");
        }
        let before = store.purges();
        store.purge(&Purge::All);
        store.put(
            b"late",
            (&Fields::new(), &[]),
            object("late", "", 1),
            before,
        );
        assert!(!has(&store, "late", ""));
    }

    #[test]
    fn variant_that_is_passed_leaves_the_others() {
        let store = Store::new(1 << 20, 1 << 10);
        let german = object("http://a/", "Accept-Language", 1);
        store.put(b"k", (&request("de"), &[]), german, 0);
        store.pass(b"k", &request("en"));
        assert!(has(&store, "k", "de"));
        assert!(matches!(store.find(b"k", &request("en")), Found::Passing));
        assert!(matches!(
            store.find(b"k", &request("fr")),
            Found::Nothing(_)
        ));
    }

    #[test]
    fn tags_are_purged_alone() {
        let store = Store::new(1 << 20, 1 << 10);
        for (url, name, tags) in [
            ("http://a/1", "Cache-Tag", "shoes,  red"),
            ("http://a/2", "cache-tag", "shoes red"),
            ("http://a/3", "Surrogate-Key", "red  shoes"),
            ("http://a/4", "Surrogate-Key", "redshoes"),
        ] {
            let mut head = ResponseHead::new(StatusCode::OK);
            head.fields.append_called(name.as_bytes(), tags.as_bytes());
            let object = Object::new(url.as_bytes(), &head, Body::new(), Terms::default());
            store.put(url.as_bytes(), (&Fields::new(), &[]), Arc::new(object), 0);
        }
        assert_eq!(store.purge(&Purge::Tag("red".to_owned())), 2);
        let left: Vec<String> = all(&store).into_iter().map(|object| object.url).collect();
        assert_eq!(left, ["http://a/2", "http://a/4"]);
    }

    #[test]
    fn configured_names_make_variants_that_go_together() {
        let store = Store::new(1 << 20, 1 << 10);
        let names = [b"=lang"[..].into(), b"accept-language"[..].into()];
        let with = |cookie: &str| {
            let mut fields = Fields::new();
            fields.append(Name::Cookie, cookie.as_bytes());
            fields
        };
        let has = |cookie| matches!(store.find(b"k", &with(cookie)), Found::Object(_));
        for cookie in ["lang=de", "lang=en"] {
            let one = object("http://a/", "", 1);
            store.put(b"k", (&with(cookie), &names), one, 0);
        }
        assert!(has("a=b; lang=de") && has("lang=en") && !has("lang=fr") && !has(""));
        store.invalidate(b"k");
        assert!(!has("lang=de") && !has("lang=en"));
    }

    #[test]
    fn url_that_is_passed_is_known_as_such() {
        let store = Store::new(1 << 20, 1 << 10);
        store.pass(b"k", &Fields::new());
        assert!(matches!(store.find(b"k", &Fields::new()), Found::Passing));
        store.put(b"k", (&Fields::new(), &[]), object("k", "", 1), 0);
        assert!(has(&store, "k", ""));
    }
}
