//! The HTTP call to Meta: the only module that knows the wire format of sending.

pub mod body;
