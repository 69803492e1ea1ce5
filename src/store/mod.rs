//! Redis: the only module that names a key.
