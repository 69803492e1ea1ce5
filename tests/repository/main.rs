//! Checks of the repository itself: which room of `src/` uses which, and whether the links and test names in the
//! documents exist.
//!
//! They read files and start no server. `make check` runs them.

mod architecture;
mod documents;
