//! A file that is known: its content or its descriptor, its validators and its type.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::body::Bytes;
use lb_http1::{Name, ResponseHead};

use super::kinds::kind_of;
use super::open::{Opened, Stamp};
use crate::compress;
use lb_config::http::Algorithm;

/// Changes that lie closer together may have one time: the least that file systems tell apart.
const GRANULARITY: Duration = Duration::from_secs(2);

/// The bytes of a file.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Memory(Bytes),
    Disk(Arc<Opened>),
}

/// A file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) source: Source,
    pub(super) stamp: Stamp,
    /// Its media type.
    pub(crate) kind: String,
    /// The entity tag.
    pub(crate) tag: String,
    /// The fields that tell of it, for a 200.
    head: ResponseHead,
    /// `Last-Modified`, and the same in seconds since 1970. Images of containers have files of the years 1970 and
    /// later ones of builds that are to be the same each time, which say nothing.
    pub(crate) modified: Option<(u64, String)>,
    /// Nothing has changed the file for so long that another change would have another time.
    pub(crate) is_settled: bool,
    /// The content in codings that it was sent in.
    coded: RefCell<Vec<(Algorithm, Bytes)>>,
}

impl File {
    /// The file called `name`, as it is `now`.
    pub(super) fn new(name: &[u8], source: Source, stamp: Stamp, now: SystemTime) -> Self {
        let (seconds, nanoseconds) = stamp.modified;
        let time = u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 1)
            .map(|seconds| (seconds, UNIX_EPOCH + Duration::new(seconds, nanoseconds)));
        let tag = match time {
            Some((seconds, _)) => format!("\"{seconds:x}.{nanoseconds:x}-{:x}\"", stamp.size),
            None => {
                let (seconds, nanoseconds) = stamp.changed;
                format!(
                    "\"{:x}-{seconds:x}.{nanoseconds:x}-{:x}\"",
                    stamp.inode, stamp.size
                )
            }
        };
        // A time in the future would be refused (RFC 9110, section 8.8.2.1).
        let past = time.filter(|(_, time)| *time <= now);
        let (changed, part) = stamp.changed;
        let changed = Duration::new(u64::try_from(changed).unwrap_or_default(), part);
        let age = now.duration_since(UNIX_EPOCH + changed);
        let kind = kind_of(name);
        let modified = past.map(|(seconds, time)| (seconds, httpdate::fmt_http_date(time)));
        let of_date = modified.as_ref().map(|(_, date)| &**date);
        Self {
            source,
            stamp,
            head: described(&kind, &tag, of_date).packed(),
            kind,
            tag,
            modified,
            is_settled: age.is_ok_and(|age| age > GRANULARITY),
            coded: RefCell::default(),
        }
    }

    /// Bytes of its content.
    pub(crate) const fn size(&self) -> u64 {
        self.stamp.size
    }

    /// The entity tag of the file as one that stands for another in this coding.
    pub(crate) fn tag_of(&self, coding: Algorithm) -> String {
        let tag = self.tag.trim_end_matches('"');
        format!("{tag}-{}\"", suffix_of(coding))
    }

    /// The head of a 200 with it.
    pub(crate) fn head(&self) -> ResponseHead {
        self.head.clone()
    }

    /// The head of a 200 with it in a coding, which stands for a file of this type.
    pub(crate) fn head_of(&self, kind: &str, tag: &str) -> ResponseHead {
        let modified = self.modified.as_ref().map(|(_, date)| &**date);
        described(kind, tag, modified)
    }

    /// Its content in a coding. It is kept for the next time.
    pub(crate) fn coded(&self, algorithm: Algorithm, content: &Bytes) -> io::Result<Bytes> {
        let mut kept = self.coded.borrow_mut();
        if let Some((_, coded)) = kept.iter().find(|(known, _)| *known == algorithm) {
            return Ok(coded.clone());
        }
        let coded = Bytes::from(compress::whole(algorithm, content)?);
        kept.push((algorithm, coded.clone()));
        Ok(coded)
    }

    /// Bytes of memory that it takes.
    pub(super) fn weight(&self) -> usize {
        const OWN: usize = 1024;
        // So many descriptors are open as if each were this large: not all that a process may have.
        const DESCRIPTOR: usize = 128 * 1024;
        let content = match &self.source {
            Source::Memory(content) => content.len(),
            Source::Disk(_) => DESCRIPTOR,
        };
        let coded = self.coded.borrow();
        let coded: usize = coded.iter().map(|(_, coded)| coded.len()).sum();
        OWN + content + coded
    }
}

fn described(kind: &str, tag: &str, modified: Option<&str>) -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::OK);
    let fields = &mut head.fields;
    fields.append(Name::ContentType, kind.as_bytes());
    fields.append(Name::Etag, tag.as_bytes());
    if let Some(modified) = modified {
        fields.append(Name::LastModified, modified.as_bytes());
    }
    fields.append(Name::AcceptRanges, b"bytes");
    head
}

/// The end of the name of a file in a coding, without its dot.
pub(crate) const fn suffix_of(coding: Algorithm) -> &'static str {
    match coding {
        Algorithm::Zstd => "zst",
        Algorithm::Brotli => "br",
        Algorithm::Gzip => "gz",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(modified: (i64, u32), changed: (i64, u32)) -> File {
        let stamp = Stamp {
            device: 1,
            inode: 0x10,
            size: 0x20,
            modified,
            changed,
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::new(b"a.txt", Source::Memory(Bytes::new()), stamp, now)
    }

    #[test]
    fn tag_has_time_and_size_and_another_end_for_each_coding() {
        let file = file((255, 16), (300, 0));
        assert_eq!(file.tag, "\"ff.10-20\"");
        assert_eq!(file.tag_of(Algorithm::Brotli), "\"ff.10-20-br\"");
        let modified = file.modified.unwrap();
        assert_eq!(modified, (255, "Thu, 01 Jan 1970 00:04:15 GMT".to_owned()));
        assert!(file.is_settled);
    }

    #[test]
    fn times_of_0_and_1_say_nothing_so_inode_and_change_are_the_tag() {
        for seconds in [0, 1, -1] {
            let file = file((seconds, 0), (300, 5));
            assert_eq!(file.tag, "\"10-12c.5-20\"");
            assert_eq!(file.modified, None);
        }
    }

    #[test]
    fn time_in_the_future_is_not_told_and_a_fresh_change_may_not_be_the_last() {
        let file = file((1_000_000_100, 0), (999_999_999, 0));
        assert_eq!(file.modified, None);
        assert!(file.tag.starts_with("\"3b9aca64"));
        assert!(!file.is_settled);
    }
}
