//! Caps, reservations and counts, by one thread and by many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use super::handshake::{Reserved, end, period, reserve};
use super::*;

#[derive(Default)]
struct Memory([AtomicU64; CELLS]);

impl Cells for &Memory {
    fn word(&self, cell: u64) -> u64 {
        self.0[cell as usize].load(Ordering::SeqCst)
    }

    fn replace(&mut self, cell: u64, old: u64, new: u64) -> bool {
        let order = Ordering::SeqCst;
        self.0[cell as usize]
            .compare_exchange(old, new, order, order)
            .is_ok()
    }
}

/// The hash of the client with this number, in bucket 3.
fn client(number: u64) -> u64 {
    number << 40 | 3
}

#[derive(Default)]
struct Tables {
    open: Memory,
    handshakes: Memory,
}

impl Tables {
    fn syn(&self, hash: u64, cap: u32, period: u64) -> bool {
        let cells = &mut &self.handshakes;
        reserve(cells, &&self.open, hash, cap, period) == Reserved::Yes
    }

    fn established(&self, hash: u64, period: u64) -> Counted {
        let counted = open::add(&mut &self.open, hash);
        end(&mut &self.handshakes, hash, period);
        counted
    }

    fn close(&self, counted: Counted) {
        open::take(&mut &self.open, counted);
    }

    fn open(&self, hash: u64) -> u32 {
        open::of(&&self.open, hash)
    }
}

#[test]
fn client_at_its_cap_is_refused_until_a_connection_closes() {
    let tables = Tables::default();
    let (one, other) = (client(1), client(2));
    let counted: Vec<Counted> = (0..3)
        .map(|_| {
            assert!(tables.syn(one, 3, 0));
            tables.established(one, 0)
        })
        .collect();
    assert!(!tables.syn(one, 3, 0) && tables.syn(other, 3, 0));
    tables.close(counted[0]);
    assert!(tables.syn(one, 3, 0) && !tables.syn(one, 3, 0));
    assert_eq!(tables.open(one), 2);
}

#[test]
fn reservations_count_until_they_expire() {
    let tables = Tables::default();
    let one = client(1);
    assert!(tables.syn(one, 2, 7) && tables.syn(one, 2, 8));
    assert!(!tables.syn(one, 2, 8));
    assert!(tables.syn(one, 2, 9), "that of period 7 is over");
    assert!(!tables.syn(one, 2, 9));
    assert!(tables.syn(one, 2, 9 + 2) && tables.syn(one, 2, 9 + 2));
    assert_eq!(period(0xff_ffff_ffff), 0xff);
}

#[test]
fn made_up_clients_push_no_open_connection_out() {
    let tables = Tables::default();
    let one = client(1);
    assert!(tables.syn(one, 1, 0));
    let counted = tables.established(one, 0);
    for number in 2..10_000 {
        assert!(tables.syn(client(number), 1, 0));
    }
    assert!(!tables.syn(one, 1, 0));
    tables.close(counted);
    assert!(tables.syn(one, 1, 0));
}

#[test]
fn client_without_a_cell_is_not_counted_and_changes_nothing() {
    let tables = Tables::default();
    let all: Vec<Counted> = (1..=9)
        .map(|number| open::add(&mut &tables.open, client(number)))
        .collect();
    assert_eq!(all.iter().filter(|one| **one == Counted::NONE).count(), 1);
    tables.close(all[0]);
    // The cell is another client's by now.
    assert_ne!(open::add(&mut &tables.open, client(20)), Counted::NONE);
    tables.close(all[0]);
    assert_eq!(tables.open(client(20)), 1);
}

#[test]
fn parallel_handshakes_never_exceed_the_cap() {
    const CAP: u32 = 5;
    let tables = Tables::default();
    let held = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    if !tables.syn(client(1), CAP, 0) {
                        continue;
                    }
                    let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= u64::from(CAP), "{now}");
                    let counted = tables.established(client(1), 0);
                    assert_ne!(counted, Counted::NONE);
                    held.fetch_sub(1, Ordering::SeqCst);
                    tables.close(counted);
                }
            });
        }
    });
    assert_eq!(tables.open(client(1)), 0);
}
