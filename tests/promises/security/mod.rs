//! What strangers and careless callers can do to a worker: nothing. Over real sockets, against a real Redis.

mod bodies;
mod connections;
mod kit;
mod listeners;
mod secrets;
mod tls;
