//! Readers, Redis and PostgreSQL die at any point: every message is in its chat once, and in order.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Office, text, texts};
use crate::support::{seed, until};

#[tokio::test]
async fn no_message_is_lost_or_shown_twice_through_kills_of_readers_redis_and_postgresql() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut office = Office::start().await;
    let database = office.database().await;
    let mut readers = vec![office.reader("0"), office.reader("1")];
    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for round in 0..12 {
        for line in ["3001", "3002"] {
            let messages: Vec<_> = (0..random.random_range(1..300))
                .map(|n| {
                    let (number, said) =
                        (format!("549115555{:04}", random.random_range(0..9)), format!("{line}.{round}.{n}"));
                    expected.entry((line.to_owned(), format!("+{number}"))).or_default().push(said.clone());
                    text(&said, &number, &said)
                })
                .collect();
            office.write(line, &messages).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        match random.random_range(0..4) {
            0 => {
                office.postgres.kill_hard().await;
                office.postgres.restart().await;
            }
            1 => {
                office.redis.kill_hard().await;
                office.redis.restart().await;
            }
            _ => {
                let killed = readers.swap_remove(random.random_range(0..readers.len()));
                killed.kill().await;
                readers.push(office.reader(&format!("after {round}")));
            }
        }
    }
    until("all messages are stored", async || texts(&database).await == expected).await;
    for reader in readers {
        reader.stop().await;
    }
}
