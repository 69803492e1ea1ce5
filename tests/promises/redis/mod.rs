//! A Redis that stops, restarts, or comes back with less data than it had.

mod empty;
mod forgetting;
mod spawn;
