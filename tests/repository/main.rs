//! Checks of the repository itself: which module of `src/` may use which, whether the files, headings and tests that
//! the documents name exist, whether docs/metrics.md lists the series, whether each alert has its section in
//! docs/runbook.md, and whether missing programs would be installed.
//!
//! They start no server. `make check` runs them.

mod alerts;
mod architecture;
mod documents;
mod install;
mod metrics;
mod packages;
