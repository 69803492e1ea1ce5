//! Jobs and uploads become parts.

pub mod rows;
