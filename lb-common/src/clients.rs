//! Open connections of client prefixes, counted against the cap of a service (`client_connections`).
//!
//! Two tables of buckets, each bucket one cache line of eight cells. A cell is one word, which is replaced by
//! compare-and-exchange alone, so programs on all CPUs and the agent use the tables without a lock.
//!
//! - *Open connections* ([`open`]): a tag of the client, and their number. A cell with a number above 0 belongs to
//!   its client. Only a complete handshake takes a cell, so made-up clients cannot use the table up.
//! - *Handshakes* ([`handshake`]): reservations by SYNs, which expire by themselves. A full bucket gives its cells
//!   to the clients that come.
//!
//! A client is its keyed hash ([`crate::select::Client::hash`]): bits of it are the bucket, others the tag.

/// Cells of a bucket.
pub const CELLS: usize = 8;
/// Buckets of the map `CLIENTS`: cells for 131,072 clients with open connections.
pub const CLIENT_BUCKETS: usize = 16_384;
/// Buckets of the map `HANDSHAKES`.
pub const HANDSHAKE_BUCKETS: usize = 2_048;
/// The largest cap.
pub const MAX_CAP: u32 = 65_535;

/// Attempts when another CPU was faster.
const TRIES: u32 = 16;

/// One cache line of cells.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(pub [u64; CELLS]);
const _: () = assert!(size_of::<Bucket>() == 64);

/// A bucket in a kernel map or in memory. Cells are below [`CELLS`].
pub trait Cells {
    /// The word of a cell.
    fn word(&self, cell: u64) -> u64;
    /// Replaces a word, if it still is `old`.
    fn replace(&mut self, cell: u64, old: u64, new: u64) -> bool;
    /// [`open::of`], for the kernel to make a function of its own of it. The verifier checks that once.
    #[inline(always)]
    fn open(&self, hash: u64) -> u32
    where
        Self: Sized,
    {
        open::of(self, hash)
    }
    /// The same of [`open::best`].
    #[inline(always)]
    fn best_open(&self, hash: u64) -> u64
    where
        Self: Sized,
    {
        open::best(self, hash)
    }
    /// The same of [`handshake::best`].
    #[inline(always)]
    fn best_handshake(&self, hash: u64, period: u64) -> u64
    where
        Self: Sized,
    {
        handshake::best(self, hash, period)
    }
    /// The same number. In the kernel the verifier forgets its range, and checks the code behind once.
    #[inline(always)]
    fn forgotten(&self, number: u64) -> u64 {
        number
    }
}

/// The cell of a counted connection: the index of the cell in the table plus one, and the tag above it. 0 for
/// a connection that is not counted.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted(pub u64);

impl Counted {
    /// Not counted.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    const fn new(bucket: u32, cell: u64, tag: u64) -> Self {
        Self(tag << 32 | (bucket as u64 * CELLS as u64 + cell + 1))
    }

    /// The bucket and the cell.
    #[inline(always)]
    pub const fn place(self) -> (u32, u64) {
        let index = (self.0 as u32).wrapping_sub(1);
        (index / CELLS as u32, (index % CELLS as u32) as u64)
    }

    #[inline(always)]
    const fn tag(self) -> u64 {
        self.0 >> 32
    }
}

/// The client with this hash: its bucket of open connections.
#[inline(always)]
pub const fn client_bucket(hash: u64) -> u32 {
    hash as u32 % CLIENT_BUCKETS as u32
}

/// The bucket of its handshakes.
#[inline(always)]
pub const fn handshake_bucket(hash: u64) -> u32 {
    hash as u32 % HANDSHAKE_BUCKETS as u32
}

/// The least of all cells by `rank`, and its rank.
#[inline(always)]
fn least<C: Cells>(cells: &C, rank: impl Fn(u64, u64) -> u64) -> u64 {
    let mut least = u64::MAX;
    let mut cell = 0;
    while cell < CELLS as u64 {
        let rank = rank(cells.word(cell), cell) << 3 | cell;
        least = cells.forgotten(if rank < least { rank } else { least });
        cell += 1;
    }
    least
}

/// Open connections.
pub mod open {
    use super::{CELLS, Cells, Counted, TRIES, client_bucket, least};

    const NUMBER: u64 = 0xffff_ffff;

    #[inline(always)]
    const fn tag(hash: u64) -> u64 {
        hash >> 32
    }

    #[inline(always)]
    const fn is_of(word: u64, tag: u64) -> bool {
        word >> 32 == tag && word & NUMBER != 0
    }

    /// Open connections of the client with this hash, whose bucket `cells` are.
    #[inline(always)]
    pub fn of<C: Cells>(cells: &C, hash: u64) -> u32 {
        let mut sum = 0;
        let mut cell = 0;
        while cell < CELLS as u64 {
            let word = cells.word(cell);
            let of = if word >> 32 == tag(hash) {
                word & NUMBER
            } else {
                0
            };
            sum = cells.forgotten(sum + of);
            cell += 1;
        }
        sum as u32
    }

    /// The best cell for a connection of a client: its own, else a free one. The rank is above the three bits of the
    /// cell: 2 for a cell of another client.
    #[inline(always)]
    pub fn best<C: Cells>(cells: &C, hash: u64) -> u64 {
        let tag = tag(hash);
        least(cells, |word, _| {
            let free = word & NUMBER == 0;
            if is_of(word, tag) {
                0
            } else if free {
                1
            } else {
                2
            }
        })
    }

    /// Counts one more. [`Counted::NONE`] if the bucket has no cell left.
    #[inline(always)]
    pub fn add<C: Cells>(cells: &mut C, hash: u64) -> Counted {
        /// Attempts one after the other. Kernels before 6.7 refuse what the compiler makes of a loop here, as some path falls
        /// into its head again.
        macro_rules! attempts {
            ($($number:literal)*) => {
                $(match attempt(cells, hash) {
                    Attempt::Done(counted) => return counted,
                    Attempt::Again => { let _ = $number; }
                })*
            };
        }
        attempts!(1 2 3 4 5 6 7 8);
        Counted::NONE
    }

    /// What came of an attempt to count.
    enum Attempt {
        Done(Counted),
        /// Another processor has changed the cell.
        Again,
    }

    #[inline(always)]
    fn attempt<C: Cells>(cells: &mut C, hash: u64) -> Attempt {
        let tag = tag(hash);
        let best = cells.best_open(hash);
        let cell = best % CELLS as u64;
        let word = cells.word(cell);
        let new = if is_of(word, tag) {
            word + 1
        } else if word & NUMBER == 0 {
            tag << 32 | 1
        } else if best >> 3 == 2 {
            return Attempt::Done(Counted::NONE);
        } else {
            return Attempt::Again;
        };
        match cells.replace(cell, word, new) {
            true => Attempt::Done(Counted::new(client_bucket(hash), cell, tag)),
            false => Attempt::Again,
        }
    }

    /// Takes a counted connection off; `cells` are those of its bucket. A cell that belongs to another client
    /// stays as it is.
    #[inline(always)]
    pub fn take<C: Cells>(cells: &mut C, counted: Counted) {
        let (_, cell) = counted.place();
        // The connection itself keeps the number above 0, so only a change of the number makes an attempt fail.
        let mut tries = 0;
        while tries < 8 * TRIES {
            let word = cells.word(cell);
            if !is_of(word, counted.tag()) || cells.replace(cell, word, word - 1) {
                return;
            }
            tries += 1;
        }
    }
}

/// Handshakes under way.
pub mod handshake {
    use super::{CELLS, Cells, TRIES, least};

    /// Bits: a tag (24), a number that changes with each change (8), reservations of this period (12) and of the
    /// one before (12), the period (8).
    const TAG: u32 = 40;
    const CHANGES: u32 = 32;
    const NOW: u32 = 20;
    const BEFORE: u32 = 8;
    /// Most reservations of a period. More are let through without one.
    const MOST: u64 = 0xfff;

    /// The period of a time in nanoseconds, modulo 256. A reservation lasts for one to two periods of 4.3 seconds.
    #[inline(always)]
    pub const fn period(now_ns: u64) -> u64 {
        now_ns >> 32 & 0xff
    }

    /// A cell as it is in a period.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Cell {
        now: u64,
        before: u64,
    }

    impl Cell {
        const EMPTY: Self = Self { now: 0, before: 0 };

        #[inline(always)]
        const fn read(word: u64, period: u64) -> Self {
            let (now, before) = (word >> NOW & MOST, word >> BEFORE & MOST);
            match period.wrapping_sub(word) & 0xff {
                0 => Self { now, before },
                1 => Self {
                    now: 0,
                    before: now,
                },
                _ => Self::EMPTY,
            }
        }

        #[inline(always)]
        const fn sum(self) -> u64 {
            self.now + self.before
        }

        /// The word that follows `old`.
        #[inline(always)]
        const fn word(self, tag: u64, old: u64, period: u64) -> u64 {
            let changes = (old >> CHANGES).wrapping_add(1) & 0xff;
            tag << TAG | changes << CHANGES | self.now << NOW | self.before << BEFORE | period
        }
    }

    #[inline(always)]
    const fn tag(hash: u64) -> u64 {
        hash >> TAG
    }

    /// The verdict on a SYN.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reserved {
        /// It may open a connection.
        Yes,
        /// The client has as many as it may have.
        Full,
    }

    /// The best cell for a handshake of a client: its own, else a free one, else that of another client.
    #[inline(always)]
    pub fn best<C: Cells>(cells: &C, hash: u64, period: u64) -> u64 {
        let tag = tag(hash);
        least(cells, |word, cell| {
            let spare = (word >> CHANGES ^ cell) & 7;
            if word >> TAG == tag {
                0
            } else if Cell::read(word, period).sum() == 0 {
                1
            } else {
                2 + spare
            }
        })
    }

    /// Reserves a connection for the client with this hash, unless it has `cap` open and reserved ones.
    ///
    /// `cells` are the bucket of its handshakes, `others` that of its open connections. A finished handshake counts
    /// as open before its reservation goes, so the sum is never below the truth. It may be one above for a moment;
    /// therefore a sum that includes reservations refuses only if it is as large a second time.
    #[inline(always)]
    pub fn reserve<C: Cells, O: Cells>(
        cells: &mut C,
        others: &O,
        hash: u64,
        cap: u32,
        period: u64,
    ) -> Reserved {
        let tag = tag(hash);
        let mut full = 0;
        let mut tries = 0;
        while tries < TRIES && full < 2 {
            let cell = cells.best_handshake(hash, period) % CELLS as u64;
            let word = cells.word(cell);
            let mut now = Cell::read(word, period);
            if word >> TAG != tag {
                now = Cell::EMPTY;
            }
            // After the reservations: a handshake that ends meanwhile changes the word.
            let open = others.open(hash);
            if open >= cap {
                return Reserved::Full;
            }
            if u64::from(open) + now.sum() >= u64::from(cap) {
                full += 1;
            } else {
                if now.now == MOST {
                    return Reserved::Yes;
                }
                now.now += 1;
                if cells.replace(cell, word, now.word(tag, word, period)) {
                    return Reserved::Yes;
                }
            }
            tries += 1;
        }
        Reserved::Full
    }

    /// Ends a reservation of the client with this hash, if it has any. Its connection counts as open by now.
    #[inline(always)]
    pub fn end<C: Cells>(cells: &mut C, hash: u64, period: u64) {
        let tag = tag(hash);
        let mut tries = 0;
        while tries < TRIES {
            let cell = cells.best_handshake(hash, period) % CELLS as u64;
            let word = cells.word(cell);
            let mut now = Cell::read(word, period);
            if word >> TAG != tag || now.sum() == 0 {
                return;
            }
            if now.before > 0 {
                now.before -= 1;
            } else {
                now.now -= 1;
            }
            if cells.replace(cell, word, now.word(tag, word, period)) {
                return;
            }
            tries += 1;
        }
    }
}

#[cfg(test)]
mod tests;
