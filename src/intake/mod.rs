//! Jobs and uploads become parts.
