//! The code that the eBPF programs and the agent share: layouts, addresses, hashing, Maglev tables and the
//! one function that chooses a backend.
//!
//! Nothing here reads a packet, a map or a clock by itself: both sides bring those through
//! [`select::Tables`]. There is no unsafe code and, without the `alloc` feature, no allocation,
//! so that the eBPF compiler can take the same source.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, feature = "simulation"))]
extern crate std;

pub mod abi;
pub mod access;
pub mod addr;
pub mod checksum;
pub mod clients;
pub mod decap;
pub mod decide;
pub mod flows;
#[cfg(feature = "simulation")]
pub mod fuzz;
pub mod hash;
pub mod headers;
#[cfg(feature = "alloc")]
pub mod maglev;
pub mod packet;
pub mod select;
#[cfg(feature = "alloc")]
pub mod table;
