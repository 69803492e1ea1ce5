//! Whole processes: how one starts and ends, and how several with different configurations work together.

mod lines_change;
mod starting;
