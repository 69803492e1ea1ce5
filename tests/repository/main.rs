//! The repository itself: the arrows between the rooms of `src/`, and what the documents point to. Reads files and starts nothing;
//! links nothing of the service, so that `make check` is quick.

mod architecture;
mod documents;
