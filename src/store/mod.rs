//! Redis: the only module that names a key.

pub mod spawn;
