//! Hostile and careless callers do no harm to a worker. Tested over real sockets with a real Redis.

mod bodies;
mod connections;
mod http2;
mod kit;
mod listeners;
mod secrets;
mod tls;
