//! Checks of the repository itself: which module of `src/` may use which, whether the files, headings and tests that
//! the documents name exist, whether docs/metrics.md lists the series, and whether missing programs would be installed.
//!
//! They start no server. `make check` runs them.

mod architecture;
mod documents;
mod install;
mod metrics;
mod packages;
