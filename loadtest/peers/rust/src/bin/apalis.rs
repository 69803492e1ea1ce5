//! The job on apalis-redis.
//!
//! Usage: `apalis enqueue SOCKET`, then `apalis work SOCKET N URL SETTINGS`.
//!
//! Settings: `WORKERSxCONCURRENCY`, then any of `,no-locks`, `,no-results` and `,no-events`, which switch off what is
//! on by default, and `,batch=N`, the number of jobs in one fetch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use apalis::prelude::*;
use apalis_redis::{Client, Config, RedisStorage};
use pregon_peers::{Call, Recipient, Sender, Stopwatch, batches};
use redis::{Script, aio::ConnectionManagerConfig};
use tokio::{sync::watch, task::JoinSet};

#[tokio::main]
async fn main() {
    match Call::read("apalis") {
        Call::Enqueue { socket } => enqueue(&socket).await,
        Call::Work { socket, n, url, settings } => work(&socket, n, &url, &settings).await,
    }
}

async fn storage(socket: &str, config: Config) -> RedisStorage<Recipient> {
    // Like `apalis_redis::connect`, but with a longer timeout: on a busy machine a batch can take more than its 500 ms.
    let patient = ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    let client = Client::open(format!("unix://{socket}")).expect("a path");
    let connection = client.get_connection_manager_with_config(patient).await.expect("a connection");
    RedisStorage::new(connection).with_config(config)
}

async fn enqueue(socket: &str) {
    let config = Config::default();
    let mut storage = storage(socket, config.clone()).await;
    // apalis-redis adds jobs without a start time to its set of scheduled jobs too. A worker moves all due jobs to the
    // active list in one Lua call, which fails from some 8,000 jobs on (version 1.0.0). Move each batch here instead.
    let due = Script::new(
        "redis.call('rpush', KEYS[2], unpack(redis.call('zrange', KEYS[1], 0, -1))) redis.call('del', KEYS[1])",
    );
    for batch in batches() {
        storage.push_bulk(batch).await.expect("jobs on the queue");
        let mut due = due.key(config.scheduled_jobs_set());
        let due = due.key(config.active_jobs_list());
        due.invoke_async::<()>(storage.get_connection()).await.expect("jobs that are due");
    }
}

/// The state that all jobs of this process share.
#[derive(Clone)]
struct Shared {
    sender: Sender,
    left: Arc<AtomicU64>,
    done: watch::Sender<bool>,
}

async fn send(recipient: Recipient, shared: Data<Shared>) -> Result<String, BoxDynError> {
    let id = shared.sender.send(&recipient).await?;
    if shared.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        shared.done.send_replace(true);
    }
    Ok(id)
}

async fn work(socket: &str, n: u64, url: &str, settings: &str) {
    let mut settings = settings.split(',');
    let (workers, concurrency) = settings.next().and_then(|size| size.split_once('x')).expect("WORKERSxCONCURRENCY");
    let (workers, concurrency): (usize, usize) =
        (workers.parse().expect("a number"), concurrency.parse().expect("a number"));
    let config = settings.fold(Config::default(), |config, setting| match setting.split_once('=') {
        Some(("batch", size)) => config.batch_size(size.parse().expect("a number")),
        None if setting == "no-locks" => config.lock_tasks(false),
        None if setting == "no-results" => config.persist_results(false),
        None if setting == "no-events" => config.emit_events(false),
        _ => panic!("there is no setting {setting}"),
    });

    let stopwatch = Stopwatch::start();
    let shared =
        Shared { sender: Sender::new(url), left: Arc::new(AtomicU64::new(n)), done: watch::Sender::new(false) };
    let mut running = JoinSet::new();
    for number in 0..workers {
        let worker = WorkerBuilder::new(format!("worker-{number}"))
            .backend(storage(socket, config.clone()).await)
            .data(shared.clone())
            .concurrency(concurrency)
            .parallelize(tokio::spawn)
            .build(send);
        let mut done = shared.done.subscribe();
        running.spawn(worker.run_until(async move {
            done.wait_for(|done| *done).await.expect("this process has the sender, too");
            Ok::<_, WorkerError>(())
        }));
    }
    // A worker writes its last results before it stops, so the stopwatch runs until all have stopped.
    while let Some(ended) = running.join_next().await {
        ended.expect("no panic").expect("a worker that ends well");
    }
    stopwatch.print();
}
