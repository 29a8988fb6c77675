//! The rules of a shared cache as pure functions: which answers may be stored, and which of them may be sent again
//! (RFC 9111, RFC 5861).

use std::time::UNIX_EPOCH;

use hyper::StatusCode;
use lb_http1::{Fields, Name, ResponseHead, list};

use super::control::Control;

/// A date of HTTP in seconds since 1970 (RFC 9110, section 5.6.7).
pub(super) fn seconds_of_date(text: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// A tenth of the time since the last change is the heuristic lifetime (RFC 9111, section 4.2.2), at most a day.
const HEURISTIC_PART: u64 = 10;
const LONGEST_HEURISTIC: u64 = 24 * 60 * 60;

/// The terms under which an answer is stored. Times are seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long it is fresh, from the time of the origin.
    pub(crate) lifetime: u64,
    /// Its age when it came.
    pub(crate) age: u64,
    /// It is asked for each time.
    pub(crate) always_revalidates: bool,
    /// How long it may be sent after its lifetime: while it is asked for, and if that fails.
    pub(crate) while_revalidate: u64,
    pub(crate) if_error: u64,
    /// It may not be sent after its lifetime, even if the client wants that.
    pub(crate) never_stale: bool,
    /// It may not be sent after its lifetime because the client alone wants that (`s-maxage`, RFC 9111, section
    /// 5.2.2.10).
    pub(crate) ignores_max_stale: bool,
}

/// The verdict on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storing {
    /// It may be stored.
    Store(Terms),
    /// It may not, and the next one is likely to be such, too.
    Never,
    /// It may not, because of this request.
    NotThis,
}

/// The time when an answer came, seconds since 1970, and how long it took, seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) now: u64,
    pub(crate) delay: u64,
}

/// Whether the answer to a GET with these `fields` may be stored by a shared cache. `is_of_user` says that its client is
/// known by other means than `Authorization`.
pub(crate) fn storing(
    fields: &Fields,
    is_of_user: bool,
    head: &ResponseHead,
    heuristic: bool,
    arrival: Arrival,
) -> Storing {
    let (control, is_targeted) = Control::of_response(&head.fields);
    let answer = &head.fields;
    let is_secret = control.private || answer.has(Name::SetCookie);
    let is_varied = list::members(answer.all(Name::Vary)).any(|name| name == b"*");
    let no_store = match control.must_understand {
        true => !is_understood(head.status),
        false => control.no_store,
    };
    let status = head.status.as_u16();
    // `Content-Range` has no meaning with other statuses (RFC 9110, section 14.4).
    let is_partial = matches!(status, 100..200 | 206 | 304 | 416);
    if is_secret || is_varied || no_store || is_partial {
        return Storing::Never;
    }
    if Control::of_request(fields).no_store {
        return Storing::NotThis;
    }
    let is_shared = control.public || control.must_revalidate || control.s_maxage.is_some();
    if (is_of_user || fields.has(Name::Authorization)) && !is_shared {
        return Storing::NotThis;
    }
    let explicit = lifetime(&control, is_targeted, answer, arrival);
    let guessed = || {
        let may_guess = heuristic && (is_heuristic(head.status) || control.public);
        may_guess.then(|| guess(answer, arrival)).flatten()
    };
    let has_validator = answer.has(Name::Etag) || answer.has(Name::LastModified);
    let lifetime = match explicit.or_else(guessed) {
        Some(lifetime) => lifetime,
        // Said to be asked for each time: of use if that can be short.
        None if control.no_cache => 0,
        None => return Storing::Never,
    };
    let terms = Terms {
        lifetime: if is_age_sound(answer) { lifetime } else { 0 },
        age: age(answer, arrival),
        always_revalidates: control.no_cache,
        while_revalidate: control.stale_while_revalidate.unwrap_or(0),
        if_error: control.stale_if_error.unwrap_or(0),
        never_stale: control.must_revalidate || control.proxy_revalidate,
        ignores_max_stale: control.s_maxage.is_some(),
    };
    let most = terms
        .lifetime
        .saturating_add(terms.while_revalidate)
        .saturating_add(terms.if_error);
    let is_of_use = most > terms.age && !control.no_cache;
    match is_of_use || has_validator {
        true => Storing::Store(terms),
        false => Storing::Never,
    }
}

/// Statuses whose meaning for caches is known (section 5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    is_heuristic(status) || matches!(status.as_u16(), 302 | 303 | 307)
}

/// Statuses with a lifetime if none is given (RFC 9110, section 15.1), but 206.
fn is_heuristic(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// The explicit lifetime in a shared cache (section 4.2.1).
fn lifetime(
    control: &Control,
    is_targeted: bool,
    answer: &Fields,
    arrival: Arrival,
) -> Option<u64> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(seconds);
    }
    if is_targeted || !answer.has(Name::Expires) {
        return None;
    }
    // One that is no date is in the past (section 5.3), and so are two of them.
    let expires = answer.only(Name::Expires).and_then(seconds_of_date);
    let Some(expires) = expires else {
        return Some(0);
    };
    let date = answer.only(Name::Date).and_then(seconds_of_date);
    Some(expires.saturating_sub(date.unwrap_or(arrival.now)))
}

fn guess(answer: &Fields, arrival: Arrival) -> Option<u64> {
    let modified = answer.only(Name::LastModified).and_then(seconds_of_date)?;
    let date = answer.only(Name::Date).and_then(seconds_of_date);
    let since = date.unwrap_or(arrival.now).saturating_sub(modified);
    Some((since / HEURISTIC_PART).min(LONGEST_HEURISTIC))
}

/// Whether `Age` is one number, or not there. If not, a cache on the way is broken, and how old its answer is nobody
/// knows: it counts as stale (section 4.2.1, on invalid freshness information; section 5.1 would have it ignored).
fn is_age_sound(answer: &Fields) -> bool {
    let mut lines = answer.all(Name::Age);
    let is_number = |text: &[u8]| list::number(text).is_some();
    lines.next().is_none_or(is_number) && lines.next().is_none()
}

/// The age of an answer that has just come (section 4.2.3).
fn age(answer: &Fields, arrival: Arrival) -> u64 {
    let date = answer.only(Name::Date).and_then(seconds_of_date);
    let apparent = date.map_or(0, |date| arrival.now.saturating_sub(date));
    let told = answer.get(Name::Age).and_then(list::number).unwrap_or(0);
    apparent.max(told.saturating_add(arrival.delay))
}

/// What may become of a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It is sent.
    Fresh,
    /// It is sent, and asked for meanwhile.
    Stale,
    /// The backend is asked first.
    Revalidate,
}

impl Terms {
    /// Whether a stored answer of so many seconds of age may be sent to a request (section 4.2).
    pub(crate) fn reuse(&self, request: &Control, age: u64) -> Reuse {
        let is_too_old = request.max_age.is_some_and(|most| age > most || most == 0);
        if self.always_revalidates || request.no_cache || is_too_old {
            return Reuse::Revalidate;
        }
        let stale = age.saturating_sub(self.lifetime);
        if age < self.lifetime {
            let left = self.lifetime - age;
            return match request.min_fresh.is_some_and(|least| left < least) {
                true => Reuse::Revalidate,
                false => Reuse::Fresh,
            };
        }
        let may_be_stale = |seconds: u64| seconds > 0 && stale <= seconds && !self.never_stale;
        let wanted = request.max_stale.filter(|_| !self.ignores_max_stale);
        if request.min_fresh.is_some() {
            Reuse::Revalidate
        } else if may_be_stale(self.while_revalidate) || wanted.is_some_and(may_be_stale) {
            Reuse::Stale
        } else {
            Reuse::Revalidate
        }
    }

    /// Whether it may be sent because the backend fails (RFC 5861, section 4).
    pub(crate) fn is_of_use_on_error(&self, request: &Control, age: u64) -> bool {
        let wanted = request.stale_if_error.filter(|_| !self.ignores_max_stale);
        let most = self.if_error.max(wanted.unwrap_or(0));
        let stale = age.saturating_sub(self.lifetime);
        !self.never_stale && !self.always_revalidates && most > 0 && stale <= most
    }
}

/// Statuses that stand for an error of the backend (section 4).
pub(crate) fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_777;
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:32:57 GMT";
    const ARRIVAL: Arrival = Arrival { now: NOW, delay: 0 };

    fn fields(lines: &[(Name, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append(*name, value.as_bytes());
        }
        fields
    }

    fn judged(request: &[(Name, &str)], status: u16, answer: &[(Name, &str)]) -> Storing {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        head.fields = fields(answer);
        storing(&fields(request), false, &head, false, ARRIVAL)
    }

    fn lifetime_of(answer: &[(Name, &str)]) -> Option<u64> {
        match judged(&[], 200, answer) {
            Storing::Store(terms) => Some(terms.lifetime),
            _ => None,
        }
    }

    #[test]
    fn c4_2_1_explicit_lifetimes() {
        use Name::{CacheControl, CdnCacheControl, Date, Expires};
        for (answer, wanted) in [
            (&[(CacheControl, "max-age=60")][..], Some(60)),
            (&[(CacheControl, "max-age=60, s-maxage=5")], Some(5)),
            (&[(CacheControl, "max-age=0")], None),
            (&[(CacheControl, "public")], None),
            (&[], None),
            (&[(Expires, LATER)], Some(60)),
            (&[(Expires, LATER), (Date, BEFORE)], Some(1060)),
            (&[(Expires, "0")], None),
            (&[(Expires, LATER), (CacheControl, "max-age=5")], Some(5)),
            (
                &[(CacheControl, "no-store"), (CdnCacheControl, "max-age=9")],
                Some(9),
            ),
            (
                &[(CacheControl, "max-age=9"), (CdnCacheControl, "no-store")],
                None,
            ),
        ] {
            assert_eq!(lifetime_of(answer), wanted, "{answer:?}");
        }
    }

    #[test]
    fn c3_nothing_private_is_stored() {
        use Name::{Authorization, CacheControl, SetCookie, Vary};
        let fresh = (CacheControl, "max-age=60");
        for never in [
            &[fresh, (SetCookie, "a=b")][..],
            &[fresh, (Vary, "*")],
            &[fresh, (Vary, "a, *")],
            &[(CacheControl, "max-age=60, private")],
            &[(CacheControl, "max-age=60, private=\"x\"")],
            &[(CacheControl, "max-age=60, no-store")],
            &[
                (CacheControl, "max-age=60, must-understand, no-store"),
                (SetCookie, "a=b"),
            ],
        ] {
            assert_eq!(judged(&[], 200, never), Storing::Never, "{never:?}");
        }
        let secret = [(Authorization, "Basic x")];
        assert_eq!(judged(&secret, 200, &[fresh]), Storing::NotThis);
        for shared in [
            "public, max-age=9",
            "s-maxage=9",
            "max-age=9, must-revalidate",
        ] {
            let stored = judged(&secret, 200, &[(CacheControl, shared)]);
            assert!(matches!(stored, Storing::Store(_)), "{shared}");
        }
        let mut head = ResponseHead::new(StatusCode::OK);
        head.fields = fields(&[fresh]);
        let of_user = storing(&Fields::new(), true, &head, false, ARRIVAL);
        assert_eq!(of_user, Storing::NotThis);
        let asked = [(CacheControl, "no-store")];
        assert_eq!(judged(&asked, 200, &[fresh]), Storing::NotThis);
    }

    #[test]
    fn c3_statuses() {
        use Name::{CacheControl, ContentRange};
        let fresh = (CacheControl, "max-age=60");
        for status in [200, 204, 301, 302, 404, 410, 500, 599] {
            assert!(
                matches!(judged(&[], status, &[fresh]), Storing::Store(_)),
                "{status}"
            );
        }
        for status in [206, 304, 416] {
            assert_eq!(judged(&[], status, &[fresh]), Storing::Never, "{status}");
        }
        let whole = [fresh, (ContentRange, "bytes 0-1/2")];
        assert!(matches!(judged(&[], 200, &whole), Storing::Store(_)));
        let understood = [(CacheControl, "max-age=60, must-understand, no-store")];
        assert!(matches!(judged(&[], 200, &understood), Storing::Store(_)));
        assert_eq!(judged(&[], 418, &understood), Storing::Never);
    }

    #[test]
    fn c4_2_2_lifetimes_are_guessed_only_if_that_is_wanted() {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.fields = fields(&[(Name::LastModified, BEFORE), (Name::Date, DATE)]);
        let of = |head: &ResponseHead, heuristic| {
            storing(&Fields::new(), false, head, heuristic, ARRIVAL)
        };
        assert_eq!(of(&head, false), Storing::Never);
        assert!(matches!(of(&head, true), Storing::Store(terms) if terms.lifetime == 100));
        head.status = StatusCode::CREATED;
        assert_eq!(of(&head, true), Storing::Never);
    }

    #[test]
    fn c4_3_what_must_be_asked_for_is_stored_if_it_has_a_validator() {
        use Name::{CacheControl, Etag};
        for control in ["no-cache", "max-age=0", "max-age=60, no-cache"] {
            let alone = [(CacheControl, control)];
            assert_eq!(judged(&[], 200, &alone), Storing::Never, "{control}");
            let tagged = [(CacheControl, control), (Etag, "\"x\"")];
            let Storing::Store(terms) = judged(&[], 200, &tagged) else {
                panic!("{control}");
            };
            assert_eq!(terms.reuse(&Control::default(), 0), Reuse::Revalidate);
        }
    }

    #[test]
    fn c4_2_3_age_is_that_of_the_origin() {
        let of = |lines: &[(Name, &str)], delay| age(&fields(lines), Arrival { now: NOW, delay });
        assert_eq!(of(&[], 0), 0);
        assert_eq!(of(&[(Name::Age, "7")], 2), 9);
        assert_eq!(of(&[(Name::Date, BEFORE)], 2), 1000);
        assert_eq!(of(&[(Name::Date, BEFORE), (Name::Age, "2000")], 0), 2000);
        assert_eq!(of(&[(Name::Date, LATER)], 0), 0);
    }

    #[test]
    fn c4_2_1_answer_whose_age_is_no_number_is_stale() {
        let fresh = (Name::CacheControl, "max-age=3600");
        let tag = (Name::Etag, "\"x\"");
        for age in ["-7", "7.0", "7, 9", "7,7", "a", "7;x=1", ""] {
            let age = (Name::Age, age);
            assert_eq!(judged(&[], 200, &[fresh, age]), Storing::Never, "{age:?}");
            let Storing::Store(terms) = judged(&[], 200, &[fresh, age, tag]) else {
                panic!("{age:?}");
            };
            assert_eq!(terms.reuse(&Control::default(), 0), Reuse::Revalidate);
        }
        let twice = [fresh, (Name::Age, "0"), (Name::Age, "0")];
        assert_eq!(judged(&[], 200, &twice), Storing::Never);
        let once = [fresh, (Name::Age, "0")];
        assert!(matches!(judged(&[], 200, &once), Storing::Store(terms) if terms.lifetime == 3600));
    }

    #[test]
    fn c5_2_2_10_shared_lifetime_is_not_stretched_by_clients() {
        let answer = [(Name::CacheControl, "s-maxage=60, stale-while-revalidate=10")];
        let Storing::Store(terms) = judged(&[], 200, &answer) else {
            panic!();
        };
        let patient = Control {
            max_stale: Some(100),
            stale_if_error: Some(100),
            ..Control::default()
        };
        assert_eq!(terms.reuse(&patient, 70), Reuse::Stale);
        assert_eq!(terms.reuse(&patient, 71), Reuse::Revalidate);
        assert!(!terms.is_of_use_on_error(&patient, 71));
    }

    #[test]
    fn c4_2_4_and_s3_staleness() {
        let terms = Terms {
            lifetime: 60,
            while_revalidate: 10,
            if_error: 100,
            ..Terms::default()
        };
        let strict = Terms {
            never_stale: true,
            ..terms
        };
        let nothing = Control::default();
        let asked = |set: fn(&mut Control)| {
            let mut control = Control::default();
            set(&mut control);
            control
        };
        let of = |terms: &Terms, control, age| terms.reuse(&control, age);
        assert_eq!(of(&terms, nothing, 59), Reuse::Fresh);
        assert_eq!(of(&terms, nothing, 60), Reuse::Stale);
        assert_eq!(of(&terms, nothing, 70), Reuse::Stale);
        assert_eq!(of(&terms, nothing, 71), Reuse::Revalidate);
        assert_eq!(of(&strict, nothing, 60), Reuse::Revalidate);
        let patient = asked(|control| control.max_stale = Some(20));
        assert_eq!(of(&terms, patient, 80), Reuse::Stale);
        assert_eq!(of(&terms, patient, 81), Reuse::Revalidate);
        assert_eq!(of(&strict, patient, 61), Reuse::Revalidate);
        assert_eq!(
            of(&terms, asked(|it| it.no_cache = true), 0),
            Reuse::Revalidate
        );
        assert_eq!(
            of(&terms, asked(|it| it.max_age = Some(5)), 6),
            Reuse::Revalidate
        );
        assert_eq!(
            of(&terms, asked(|it| it.max_age = Some(5)), 5),
            Reuse::Fresh
        );
        assert_eq!(
            of(&terms, asked(|it| it.min_fresh = Some(5)), 56),
            Reuse::Revalidate
        );
        assert_eq!(
            of(&terms, asked(|it| it.min_fresh = Some(5)), 55),
            Reuse::Fresh
        );
        assert!(terms.is_of_use_on_error(&nothing, 160));
        assert!(!terms.is_of_use_on_error(&nothing, 161));
        assert!(!strict.is_of_use_on_error(&nothing, 61));
    }
}
