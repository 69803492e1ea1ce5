//! The life of one message: lease, pace, claim, send, settle.
