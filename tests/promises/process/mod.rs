//! Whole processes: how a process starts and stops, and how processes with different configurations work together.

mod exact;
mod full;
mod included;
mod killed;
mod lines_change;
mod log;
mod media;
mod private_redis;
mod reload;
mod reload_lines;
mod restored;
mod starting;
mod traces;
