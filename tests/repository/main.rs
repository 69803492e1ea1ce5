//! Checks of the repository itself: which module of `src/` may use which, and whether the files, headings and tests
//! that the documents name exist.
//!
//! They read files and start no server. `make check` runs them.

mod architecture;
mod documents;
