//! Counts, funnel, failures.
