//! Whole processes: how a process starts and stops, and how processes with different configurations work together.

mod lines_change;
mod starting;
