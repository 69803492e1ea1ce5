//! A backend that submits campaigns to the jobs stream, and repeats a command until Redis answers.

use std::{collections::HashMap, ops::Range, time::Duration};

use deadpool_redis::redis::{Client, FromRedisValue, Pipeline, RedisResult, pipe};
use serde_json::{Value, json};

const STREAM: &str = "pregon:jobs";
const DEAD_LETTERS: &str = "pregon:jobs:dead";
/// How long the backend waits for a response from Redis.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The most characters of a job in a report.
const JOB_CHARS: usize = 120;

/// A dead letter: its id and its fields.
type Letter = (String, HashMap<String, String>);

/// A campaign submitted as jobs.
#[derive(Clone)]
pub struct JobCampaign {
    pub external_id: String,
    pub lines: Vec<&'static str>,
    pub numbers: Range<u64>,
}

impl JobCampaign {
    /// The jobs of the campaign, in order.
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

/// The backend's connection to Redis.
pub struct Backend {
    url: String,
}

impl Backend {
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Adds all jobs of a campaign, each until Redis has acknowledged it.
    pub async fn add(&self, campaign: &JobCampaign) {
        for job in campaign.jobs() {
            let mut added = pipe();
            added.cmd("XADD").arg(STREAM).arg("*").arg("job").arg(job.to_string()).ignore();
            while self.query::<()>(&added).await.is_none() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Waits until every job has been consumed.
    pub async fn all_are_consumed(&self) {
        let mut length = pipe();
        length.cmd("XLEN").arg(STREAM);
        while self.query::<(u64,)>(&length).await != Some((0,)) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Problems of the stream: entries that were not consumed, and dead letters.
    pub async fn problems(&self) -> Vec<String> {
        let mut looked = pipe();
        looked.cmd("XLEN").arg(STREAM).cmd("XRANGE").arg(DEAD_LETTERS).arg("-").arg("+");
        let Some((waiting, letters)) = self.query::<(u64, Vec<Letter>)>(&looked).await else {
            return vec!["Redis does not answer which jobs are left".to_owned()];
        };
        let waiting = (waiting > 0).then(|| format!("{waiting} jobs were not consumed"));
        let field = |letter: &Letter, name: &str| letter.1.get(name).cloned().unwrap_or_default();
        let dead = letters.iter().map(|letter| {
            let job: String = field(letter, "job").chars().take(JOB_CHARS).collect();
            format!("dead letter {}: {} ({}) {job}", letter.0, field(letter, "reason"), field(letter, "code"))
        });
        waiting.into_iter().chain(dead).collect()
    }

    async fn query<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Option<T> {
        let asked = async {
            let client = Client::open(self.url.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            pipeline.query_async(&mut connection).await
        };
        let answer: RedisResult<T> = tokio::time::timeout(TIMEOUT, asked).await.ok()?;
        answer.ok()
    }
}
