//! Maps each command to Redis to a group, a label in the metrics, so that the number of series does not grow with the
//! number of commands.

use crate::telemetry::metrics::RedisOperation;

/// The group of an operation, which is the name of a script, or a command and the name of its key: `HGET chunk`.
pub(super) fn group(operation: &str) -> RedisOperation {
    let (command, key) = operation.split_once(' ').unwrap_or((operation, ""));
    match (command, key) {
        ("claim", _) => RedisOperation::Claim,
        (_, "chunk") => RedisOperation::Recipients,
        ("settle", _) => RedisOperation::Settle,
        ("status" | "find" | "append" | "note_details", _) | (_, "wamids" | "parked") => RedisOperation::Status,
        ("keep_inbound" | "read_inbound" | "skip_inbound", _) | (_, "inbound" | "inbound_counts") => {
            RedisOperation::Inbound
        }
        ("begin_upload" | "reserve" | "admit" | "split", _) | (_, "chunks" | "uploads") => RedisOperation::Upload,
        ("acquire" | "release" | "control", _)
        | (_, "workers" | "lease" | "beats" | "report" | "pulse" | "pauses" | "holds" | "last_sends") => {
            RedisOperation::Lease
        }
        (
            "suppress" | "unsuppress" | "erase_suppressed" | "take_places" | "note_places" | "erase_places"
            | "withhold" | "count_marketing" | "uncount_marketing",
            _,
        )
        | (_, "suppressed" | "news" | "people" | "person" | "withheld") => RedisOperation::People,
        (
            "append_events" | "newest_event" | "mark_changed" | "read_changes" | "told" | "begin_delivery"
            | "change_subscriber",
            _,
        )
        | (_, "events" | "changed" | "outbox" | "told" | "subscriber") => RedisOperation::Feed,
        ("chat_put" | "chat_claim" | "chat_settle" | "chat_status" | "chat_ack", _)
        | (_, "chat_results" | "doorbell") => RedisOperation::Chats,
        ("fence", _) => RedisOperation::Durability,
        _ if is_read(command) => RedisOperation::Read,
        _ => RedisOperation::Write,
    }
}

/// Whether a command of Redis only reads. The name of a script is in lower case, and never counts as one.
fn is_read(command: &str) -> bool {
    const READS: [&str; 26] = [
        "EXISTS",
        "GET",
        "GETBIT",
        "GETRANGE",
        "HEXISTS",
        "HGET",
        "HGETALL",
        "HKEYS",
        "HMGET",
        "INFO",
        "LINDEX",
        "LLEN",
        "LRANGE",
        "PTTL",
        "SISMEMBER",
        "SMEMBERS",
        "SSCAN",
        "STRLEN",
        "TIME",
        "XLEN",
        "XRANGE",
        "ZCARD",
        "ZMSCORE",
        "ZRANGE",
        "ZRANGEBYSCORE",
        "ZREVRANGE",
    ];
    READS.contains(&command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_in_the_group_that_names_them() {
        for (operation, expected) in [
            ("claim", RedisOperation::Claim),
            ("HGET chunk", RedisOperation::Recipients),
            ("settle", RedisOperation::Settle),
            ("status", RedisOperation::Status),
            ("admit", RedisOperation::Upload),
            ("acquire", RedisOperation::Lease),
            ("GETRANGE news", RedisOperation::People),
            ("append_events", RedisOperation::Feed),
            ("fence", RedisOperation::Durability),
            ("HGETALL campaign", RedisOperation::Read),
            ("ZRANGEBYSCORE ended", RedisOperation::Read),
            ("HSET lines", RedisOperation::Write),
            ("change", RedisOperation::Write),
        ] {
            assert_eq!(group(operation), expected, "{operation}");
        }
    }
}
