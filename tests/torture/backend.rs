//! A backend that speaks Redis: it adds campaigns to the stream of jobs, and repeats what Redis did not answer.

use std::{collections::HashMap, ops::Range, time::Duration};

use deadpool_redis::redis::{Client, FromRedisValue, Pipeline, RedisResult, pipe};
use serde_json::{Value, json};

const STREAM: &str = "pregon:jobs";
const LETTERS: &str = "pregon:jobs:dead";
/// How long the backend waits for Redis.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// So much of a job is told.
const JOB_CHARS: usize = 120;

/// A dead letter: its id and its fields.
type Letter = (String, HashMap<String, String>);

/// A campaign of the backend.
#[derive(Clone)]
pub struct Wish {
    pub external_id: String,
    pub lines: Vec<&'static str>,
    pub numbers: Range<u64>,
}

impl Wish {
    /// What is added for it, in this order.
    fn jobs(&self) -> Vec<Value> {
        let external_id = &self.external_id;
        let (first, last) = (self.numbers.start, self.numbers.end);
        let middle = first.midpoint(last);
        let page = |upload_id: &str, numbers: Range<u64>| {
            let recipient = |to: u64| json!({"to": format!("+{to}"), "params": {"1": "Maria", "2": format!("A-{to}")}});
            let recipients: Vec<Value> = numbers.map(recipient).collect();
            json!({"type": "recipients", "external_id": external_id, "upload_id": upload_id, "recipients": recipients})
        };
        let template = json!({"name": "order_update", "language": "es_AR"});
        vec![
            json!({"type": "campaign", "external_id": external_id, "name": "jobs", "template": template,
                   "lines": self.lines}),
            page("page-1", first..middle),
            page("page-2", middle..last),
            json!({"type": "launch", "external_id": external_id}),
        ]
    }
}

/// How a backend reaches Redis.
pub struct Backend {
    url: String,
}

impl Backend {
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Adds all jobs of a campaign, each until Redis has said that it has it.
    pub async fn add(&self, wish: &Wish) {
        for job in wish.jobs() {
            let mut added = pipe();
            added.cmd("XADD").arg(STREAM).arg("*").arg("job").arg(job.to_string()).ignore();
            while self.ask::<()>(&added).await.is_none() {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    /// Waits until somebody has taken every job.
    pub async fn all_are_taken(&self) {
        let mut length = pipe();
        length.cmd("XLEN").arg(STREAM);
        while self.ask::<(u64,)>(&length).await != Some((0,)) {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// What is wrong with the stream: entries that nobody took, and dead letters.
    pub async fn problems(&self) -> Vec<String> {
        let mut looked = pipe();
        looked.cmd("XLEN").arg(STREAM).cmd("XRANGE").arg(LETTERS).arg("-").arg("+");
        let Some((waiting, letters)) = self.ask::<(u64, Vec<Letter>)>(&looked).await else {
            return vec!["Redis does not tell which jobs are left".to_owned()];
        };
        let waiting = (waiting > 0).then(|| format!("{waiting} jobs were not taken"));
        let field = |letter: &Letter, name: &str| letter.1.get(name).cloned().unwrap_or_default();
        let dead = letters.iter().map(|letter| {
            let job: String = field(letter, "job").chars().take(JOB_CHARS).collect();
            format!("dead letter {}: {} ({}) {job}", letter.0, field(letter, "reason"), field(letter, "code"))
        });
        waiting.into_iter().chain(dead).collect()
    }

    async fn ask<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Option<T> {
        let asked = async {
            let client = Client::open(self.url.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            pipeline.query_async(&mut connection).await
        };
        let answer: RedisResult<T> = tokio::time::timeout(PATIENCE, asked).await.ok()?;
        answer.ok()
    }
}
