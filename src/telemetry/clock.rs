//! The one place that reads the time of day. Everything else is given `now`, so that tests choose it.

use std::time::SystemTime;

use crate::domain::UnixMs;

/// Now, by the clock of this machine. 0 if that stands before 1970.
pub fn now() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "this is the module that the lint sends everyone to")]
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(0).after(since_1970)
}
