//! Configuration, metrics, health, tracing, shutdown.
