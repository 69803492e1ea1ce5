//! The statuses of lines, in Meta's words.

/// The code with which sends on a line with this status are refused; `None` if it can send.
pub(super) fn code(status: &str) -> Option<u32> {
    match status {
        "CONNECTED" | "FLAGGED" => None,
        "RESTRICTED" | "RATE_LIMITED" => Some(131_048),
        "BANNED" => Some(131_031),
        // `PENDING`, `DISCONNECTED`, `UNVERIFIED` and others: the line is not registered.
        _ => Some(133_010),
    }
}
