//! A Redis that stops, restarts, or restarts with less data than it had.

mod deletion;
mod empty;
mod forgetting;
mod marketing;
mod people;
mod places;
mod spawn;
