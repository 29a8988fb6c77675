//! The commands about the response cache.

use lb_http::{CacheResult, Purge};

use super::Reconciler;
use crate::control::cache::{CacheReport, CachedObject};
use crate::control::message::{Refusal, RefusalKind, Reply};

impl Reconciler {
    pub(super) fn cache(&self, prefix: &str, most: usize) -> Result<Reply, Refusal> {
        let figures = self.l7.cache().ok_or_else(none)?;
        let of = |result: CacheResult| figures.requests[result as usize];
        let objects = self.l7.stored(prefix, most).into_iter();
        let objects = objects.map(|object| CachedObject {
            url: object.url,
            bytes: object.bytes,
            hits: object.hits,
            age_seconds: object.age_s,
            lifetime_seconds: object.lifetime_s,
        });
        Ok(Reply::Cache(CacheReport {
            bytes: figures.bytes,
            capacity: figures.capacity,
            entries: figures.entries,
            hit: of(CacheResult::Hit),
            miss: of(CacheResult::Miss),
            stale: of(CacheResult::Stale),
            revalidated: of(CacheResult::Revalidated),
            objects: objects.collect(),
        }))
    }

    pub(super) fn purge_cache(&self, what: &Purge) -> Result<Reply, Refusal> {
        self.l7.cache().ok_or_else(none)?;
        let message = match self.l7.purge(what) {
            0 => {
                let message = "nothing of that is stored".to_owned();
                return Ok(Reply::Unchanged { message });
            }
            1 => "1 stored response is removed".to_owned(),
            count => format!("{count} stored responses are removed"),
        };
        Ok(Reply::Changed { message })
    }
}

fn none() -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        error: "no service has a response cache".to_owned(),
        hint: Some("give one the table [service.http.cache]".to_owned()),
    }
}
