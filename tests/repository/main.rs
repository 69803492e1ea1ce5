//! Checks of the repository itself: which module of `src/` may use which, whether the files, headings and tests that
//! the documents name exist, whether docs/metrics.md lists every series, whether each alert has a section in
//! docs/runbook.md, whether the dashboards show series that exist, whether the packages match the program, and what
//! tests/install.sh installs.
//!
//! They start no server. `make check` runs them.

mod alerts;
mod architecture;
mod dashboards;
mod documents;
mod install;
mod metrics;
mod packages;
