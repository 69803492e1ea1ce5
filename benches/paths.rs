//! Measures the time of each hot path: `cargo bench --bench paths`, or `cargo bench --bench paths -- webhook` for a
//! selection.
//!
//! `inputs/paths.rs` defines the items of each path: messages, answers, statuses, webhooks, recipients or rows.

mod inputs;

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use inputs::paths::{PATHS, named};

/// The same allocator as the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    divan::main();
}

#[divan::bench(args = PATHS.map(|(name, _)| name), sample_count = 200, sample_size = 16)]
fn path(bencher: Bencher, name: &str) {
    let mut path = named(name);
    bencher.counter(ItemsCount::new(path.n)).counter(BytesCount::new(path.bytes)).bench_local(move || (path.run)());
}
