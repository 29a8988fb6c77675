//! Coarse deadlines, a thread's own: setting one is a store, and nothing is armed in the kernel.
//!
//! Every [`TICK_MS`] the thread looks at all its deadlines and wakes those that are over. So a
//! deadline is up to a tick late, which is harmless in times of seconds. A request that sets several
//! deadlines costs neither a system call nor a place in a timer wheel.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at, in milliseconds.
pub(super) const TICK_MS: u64 = 100;

/// No deadline.
const NEVER: u64 = u64::MAX;

#[derive(Default)]
struct Entry {
    /// In milliseconds of the thread's clock.
    due_ms: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

struct Clock {
    start: Instant,
    now_ms: Cell<u64>,
    entries: RefCell<Vec<Rc<Entry>>>,
}

thread_local! {
    static CLOCK: Clock = Clock {
        start: Instant::now(),
        now_ms: const { Cell::new(0) },
        entries: const { RefCell::new(Vec::new()) },
    };
}

/// The time of the last tick, in milliseconds since this thread's clock was first used.
pub(super) fn now_ms() -> u64 {
    CLOCK.with(|clock| clock.now_ms.get())
}

/// Looks at this thread's deadlines for as long as it is polled, and calls `also` each time.
pub(super) async fn tick_forever(also: impl Fn()) {
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tick();
        also();
    }
}

fn tick() {
    CLOCK.with(|clock| {
        let now_ms = clock.start.elapsed().as_millis() as u64;
        clock.now_ms.set(now_ms);
        clock.entries.borrow_mut().retain(|entry| {
            if entry.due_ms.get() <= now_ms
                && let Some(waker) = entry.waker.take()
            {
                waker.wake();
            }
            // One that is only held here has been dropped.
            Rc::strong_count(entry) > 1
        });
    });
}

/// Wakes every task of this thread that has a deadline, over or not.
pub(super) fn wake_all() {
    CLOCK.with(|clock| {
        for entry in clock.entries.borrow().iter() {
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    });
}

thread_local! {
    /// The date in words, and when it was put into them.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Hands the date to `take` as `Date` has it (RFC 9110, section 5.6.7).
pub(super) fn with_date<T>(take: impl FnOnce(&[u8]) -> T) -> T {
    const FRESH_MS: u64 = 500;
    DATE.with_borrow_mut(|(at_ms, text)| {
        let now_ms = now_ms();
        if text.is_empty() || now_ms >= *at_ms + FRESH_MS {
            *at_ms = now_ms;
            *text = httpdate::fmt_http_date(std::time::SystemTime::now());
        }
        take(text.as_bytes())
    })
}

/// A deadline that can be set again and again.
pub(super) struct Deadline(Rc<Entry>);

impl Deadline {
    /// One that is not set.
    pub(super) fn new() -> Self {
        let entry = Rc::new(Entry::default());
        entry.due_ms.set(NEVER);
        CLOCK.with(|clock| clock.entries.borrow_mut().push(Rc::clone(&entry)));
        Self(entry)
    }

    /// Sets it to `after` from now; `None` for never.
    pub(super) fn set(&self, after: Option<Duration>) {
        let due_ms = match after {
            // The last tick may be nearly a tick ago: never too early.
            Some(after) => now_ms()
                .saturating_add(after.as_millis() as u64)
                .saturating_add(TICK_MS),
            None => NEVER,
        };
        self.0.due_ms.set(due_ms);
    }

    /// Whether it is set.
    pub(super) fn is_set(&self) -> bool {
        self.0.due_ms.get() != NEVER
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.0.due_ms.get() <= now_ms()
    }

    /// Ready when it is over. It wakes the task that polled it last.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|known| known.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.waker.take();
        self.0.due_ms.set(NEVER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn over(deadline: &Deadline) {
        std::future::poll_fn(|context| deadline.poll(context)).await;
    }

    #[tokio::test]
    async fn a_deadline_comes_after_its_time_and_not_before() {
        let deadline = Deadline::new();
        let begun = Instant::now();
        deadline.set(Some(Duration::from_millis(150)));
        tokio::select! {
            () = over(&deadline) => {}
            () = tick_forever(|| {}) => {}
        }
        assert!(begun.elapsed() >= Duration::from_millis(150));
        deadline.set(None);
        assert!(!deadline.is_over());
    }

    #[tokio::test]
    async fn a_deadline_that_was_dropped_is_forgotten() {
        drop(Deadline::new());
        tick();
        let kept = CLOCK.with(|clock| clock.entries.borrow().len());
        assert_eq!(kept, 0);
    }
}
