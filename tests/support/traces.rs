//! Finds the keys in Redis that still contain data of people.

use deadpool_redis::redis::{Value, cmd};
use memchr::memmem;
use pregon::{
    domain::Phone,
    redis::{Store, chunk::Chunk, phone_index::IndexedBy},
};

/// The forms in which Redis stores a number: text, integers, and the fields of an index.
pub fn of(phone: Phone) -> Vec<Vec<u8>> {
    let digits = phone.digits();
    let [number, person] = [IndexedBy::Number, IndexedBy::Person].map(|index| index.field(phone).to_vec());
    vec![digits.to_string().into_bytes(), digits.to_le_bytes()[..7].to_vec(), number, person]
}

/// The keys that contain one of `traces`, or a chunk with one of `people` or one of `values`.
pub async fn found(store: &Store, traces: &[Vec<u8>], people: &[Phone], values: &[String]) -> Vec<String> {
    let finders: Vec<_> = traces.iter().map(memmem::Finder::new).collect();
    let has = |bytes: &[u8]| finders.iter().any(|finder| finder.find(bytes).is_some());
    let in_chunk = |bytes: &[u8]| {
        Chunk::decode(bytes).is_ok_and(|chunk| {
            let is_there = |row| chunk.recipient(row).is_some_and(|recipient| people.contains(&recipient.to));
            (0..chunk.rows())
                .any(|row| is_there(row) || chunk.values(row).any(|value| values.iter().any(|v| v == value)))
        })
    };
    let mut found = Vec::new();
    for key in store.query::<Vec<String>>("KEYS", cmd("KEYS").arg("*")).await.expect("redis") {
        let kind: String = store.query("TYPE", cmd("TYPE").arg(&key)).await.expect("redis");
        let read = match kind.as_str() {
            "string" => cmd("GET").arg(&key).take(),
            "hash" => cmd("HGETALL").arg(&key).take(),
            "list" => cmd("LRANGE").arg(&key).arg(0).arg(-1).take(),
            "set" => cmd("SMEMBERS").arg(&key).take(),
            "zset" => cmd("ZRANGE").arg(&key).arg(0).arg(-1).take(),
            _ => cmd("XRANGE").arg(&key).arg("-").arg("+").take(),
        };
        let mut left = vec![store.query::<Value>("read", &read).await.expect("redis")];
        while let Some(value) = left.pop() {
            match value {
                Value::BulkString(bytes) if has(&bytes) || in_chunk(&bytes) => found.push(key.clone()),
                Value::Array(values) | Value::Set(values) => left.extend(values),
                Value::Map(pairs) => left.extend(pairs.into_iter().flat_map(|(key, value)| [key, value])),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
