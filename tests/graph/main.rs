//! The client of the Graph API against raw sockets on this machine.

mod configuration;
mod reads;
mod sends;
mod server;
