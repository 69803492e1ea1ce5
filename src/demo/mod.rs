//! `pregon demo`.
