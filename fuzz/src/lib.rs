//! Properties that must be true for any input bytes: one function for each kind of input, which panics otherwise.
//!
//! Each function is called by a fuzz target with the inputs of libFuzzer, and by `tests/promises/intake/bad_input.rs`
//! with every file in `corpus`, so that a failure that was fixed stays fixed.

mod answer;
mod job;
mod rows;
mod sendable;
mod token;
mod webhook;

use std::hint::black_box;

pub use self::{
    answer::answer,
    job::job,
    rows::{csv, ndjson, suppressions},
    token::token,
    webhook::webhook,
};

/// Calls `read` with `input`, and asserts that its peak of allocated memory is at most `fixed` bytes plus `per_byte`
/// bytes for each byte of the input.
fn within_memory<'a, T>(per_byte: usize, fixed: usize, input: &'a [u8], read: impl FnOnce(&'a [u8]) -> T) -> T {
    let mut read = Some(read);
    let mut result = None;
    let allocated = allocation_counter::measure(|| {
        result = read.take().map(|read| black_box(read(input)));
    });
    let bytes_max = (per_byte * input.len() + fixed) as u64;
    assert!(allocated.bytes_max <= bytes_max, "{} bytes for an input of {}", allocated.bytes_max, input.len());
    result.expect("it was called")
}
