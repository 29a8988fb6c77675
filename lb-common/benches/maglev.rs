//! How long the agent takes to build a table.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lb_common::abi::TABLE_SLOTS;
use lb_common::addr;
use lb_common::maglev::{Member, fill};

fn members(count: u32, heaviest: u16) -> Vec<Member> {
    let at = |nth: u32| Member {
        addr: addr::from_v4((0x0a00_0000 + nth).to_be_bytes()),
        port: 5000,
        weight: if nth == 0 { heaviest } else { 1 },
    };
    (0..count).map(at).collect()
}

fn build(criterion: &mut Criterion) {
    let cases = [
        ("2 equal members", members(2, 1)),
        ("100 equal members", members(100, 1)),
        ("1000 equal members", members(1000, 1)),
        ("1 heavy and 999 light members", members(1000, 1000)),
    ];
    let mut slots = vec![0; TABLE_SLOTS];
    for (name, members) in cases {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| fill(black_box(&members), black_box(&mut slots)).unwrap());
        });
    }
}

criterion_group!(benches, build);
criterion_main!(benches);
