//! The job on BullMQ's own library for Rust.
//!
//! Usage: `bullmq-rust enqueue SOCKET`, then `bullmq-rust work SOCKET N URL SETTINGS`.
//!
//! Settings: `WORKERSxCONCURRENCY`, then `,remove` to remove each job when it is completed.

use bullmq::{
    Job, Queue, QueueOptions, Worker, WorkerOptions,
    options::RedisConnectionOptions,
    queue::BulkJob,
    types::RemoveOnFinish,
    worker::{CancellationToken, WorkerEvent},
};
use pregon_peers::{Call, Recipient, Sender, Stopwatch, batches};
use tokio::sync::mpsc;

const QUEUE: &str = "messages";

#[tokio::main]
async fn main() {
    match Call::read("bullmq-rust") {
        Call::Enqueue { socket } => enqueue(&socket).await,
        Call::Work { socket, n, url, settings } => work(&socket, n, &url, &settings).await,
    }
}

fn connection(socket: &str) -> RedisConnectionOptions {
    RedisConnectionOptions::new().url(format!("unix://{socket}"))
}

async fn enqueue(socket: &str) {
    let options = QueueOptions { connection: connection(socket), ..QueueOptions::default() };
    let queue = Queue::with_options(QUEUE, options).await.expect("a queue");
    for batch in batches() {
        let jobs = batch.into_iter().map(|recipient| BulkJob::new("send", recipient)).collect();
        queue.add_bulk(jobs).await.expect("jobs on the queue");
    }
}

async fn work(socket: &str, n: u64, url: &str, settings: &str) {
    let (size, remove) = settings.split_once(',').map_or((settings, false), |(size, rest)| (size, rest == "remove"));
    let (workers, concurrency) = size.split_once('x').expect("WORKERSxCONCURRENCY");

    let stopwatch = Stopwatch::start();
    let sender = Sender::new(url);
    let (completed, mut completions) = mpsc::unbounded_channel();
    let mut running = Vec::new();
    for _ in 0..workers.parse().expect("a number") {
        let sender = sender.clone();
        let options = WorkerOptions {
            connection: connection(socket),
            concurrency: concurrency.parse().expect("a number"),
            remove_on_complete: remove.then_some(RemoveOnFinish::Bool(true)),
            ..WorkerOptions::default()
        };
        let process = move |job: Job, _: CancellationToken| {
            let sender = sender.clone();
            async move {
                let recipient: Recipient = serde_json::from_value(job.data().clone())?;
                let id =
                    sender.send(&recipient).await.map_err(|error| bullmq::Error::ProcessingError(error.to_string()))?;
                Ok(serde_json::Value::String(id))
            }
        };
        let worker = std::sync::Arc::new(Worker::with_options(QUEUE, process, options).await.expect("a worker"));
        running.push(worker.clone());
        let completed = completed.clone();
        tokio::spawn(async move {
            while let Some(event) = worker.next_event().await {
                match event {
                    WorkerEvent::Completed { .. } => completed.send(()).expect("somebody counts"),
                    WorkerEvent::Failed { error, .. } | WorkerEvent::Error(error) => panic!("{error}"),
                    _ => {}
                }
            }
        });
    }
    for _ in 0..n {
        completions.recv().await.expect("a completion");
    }
    stopwatch.print();
    for worker in running {
        worker.close(5_000).await.expect("its end");
    }
}
