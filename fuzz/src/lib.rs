//! What has to hold for any bytes that come in: one function for each input, which panics where it does not.
//!
//! Each is called by a fuzz target, with what libFuzzer thinks up, and by `tests/promises/intake/bad_input.rs` with
//! everything in `corpus`, so that what once fell stays mended.

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
    rows::{csv, ndjson},
    token::token,
    webhook::webhook,
};

/// Calls `read` with `input`, and checks what it takes at its worst: so many bytes for each of the input, and some that
/// any input takes.
fn takes_at_most<'a, T>(per_byte: usize, always: usize, input: &'a [u8], read: impl FnOnce(&'a [u8]) -> T) -> T {
    let mut read = Some(read);
    let mut result = None;
    let taken = allocation_counter::measure(|| {
        result = read.take().map(|read| black_box(read(input)));
    });
    let may = (per_byte * input.len() + always) as u64;
    assert!(taken.bytes_max <= may, "{} bytes for an input of {}", taken.bytes_max, input.len());
    result.expect("it was called")
}
