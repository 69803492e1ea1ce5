//! The client of the Graph API against raw sockets on this machine.

mod configuration;
mod http2;
mod reads;
mod sends;
mod server;
