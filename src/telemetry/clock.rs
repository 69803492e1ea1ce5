//! The only module that reads the wall clock. All other code receives `now` as an argument, so that tests control it.

use std::time::SystemTime;

use crate::domain::UnixMs;

/// The current time by this machine's clock; 0 if the clock is before 1970.
pub fn now() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "the lint refers to this module")]
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(0).after(since_1970)
}
