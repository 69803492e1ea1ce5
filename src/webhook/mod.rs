//! Handshake, signature, statuses.
