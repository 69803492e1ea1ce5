//! `make pressure`: runs the scenarios in a large size, and prints their results as the table of docs/reliability.md.

use std::time::Duration;

use crate::{
    dead_line,
    memory::{Memory, mib},
    slow_meta, uploads, webhooks,
};

/// A row of the table.
struct Row {
    load: String,
    pushed_back: String,
    before: Memory,
    after: Memory,
    result: String,
}

async fn one_upload() -> Row {
    let size = uploads::Size { rows: 100_000, row_bytes: 4_000, delay: Duration::from_millis(2) };
    let figures = uploads::run(size).await;
    let sent = mib(size.rows * size.row_bytes as u64);
    Row {
        load: format!("one upload of {sent}. Redis is stopped in the middle, and is slow when the upload is repeated"),
        pushed_back: format!("answered 503; until then {} lay in buffers of the system", mib(figures.buffered_bytes)),
        before: figures.before,
        after: figures.after,
        result: format!("{} recipients, each once", size.rows),
    }
}

async fn many_uploads() -> Row {
    let size = uploads::Size { rows: 4_096, row_bytes: 1_000, delay: Duration::from_millis(2) };
    let figures = uploads::run_many(size, uploads::AT_ONCE).await;
    Row {
        load: format!(
            "{} concurrent uploads of {}. Redis is slow",
            uploads::AT_ONCE,
            mib(size.rows * size.row_bytes as u64)
        ),
        pushed_back: format!("{} refused and repeated", figures.refused),
        before: figures.before,
        after: figures.after,
        result: format!("{} recipients, each once", size.rows * uploads::AT_ONCE),
    }
}

async fn many_webhooks() -> Row {
    let size = webhooks::Size { messages: 60_000, statuses_each: 250, delay: Duration::from_millis(20) };
    let figures = webhooks::run(size).await;
    let (n, away, slow) = (figures.webhooks, figures.refused_while_away, figures.refused_while_slow);
    Row {
        load: format!(
            "{n} concurrent webhooks of {} statuses, {}. Redis is stopped, then slow",
            size.statuses_each,
            mib(figures.bytes)
        ),
        pushed_back: format!(
            "{away} ({} %) answered 503 at once while Redis was stopped, {slow} more answers of 503 while it was slow",
            100 * away / n
        ),
        before: figures.before,
        after: figures.after,
        result: format!("{} statuses, each counted once", 3 * size.messages),
    }
}

async fn unanswered_line() -> Row {
    let size = slow_meta::Size { in_flight_max: 1_000, latency: Duration::from_secs(1), attempt_bytes_max: 100 << 10 };
    let figures = slow_meta::run(size).await;
    Row {
        load: "one line of 1,000 a second, none of whose sends is answered".to_owned(),
        pushed_back: format!("{} attempts open, never more", figures.most_open),
        before: figures.before,
        after: figures.after,
        result: "two other lines completed meanwhile; a pause and a stop left nothing in doubt".to_owned(),
    }
}

async fn dead_lines() -> Row {
    let size = dead_line::Size { rate: 4.0, compared_at: 8 };
    let figures = dead_line::run(size).await;
    let progress_text = |progress: dead_line::Progress| {
        let dead_line::Progress { fewest, most, took } = progress;
        format!("{fewest} to {most} each after {:.1} s", took.as_secs_f64())
    };
    Row {
        load: format!("1,000 lines of {} a second, three of them dead", size.rate),
        pushed_back: format!(
            "at an average of {} messages a line, the other lines had sent {}; without dead lines {}",
            size.compared_at,
            progress_text(figures.with_dead),
            progress_text(figures.without_dead)
        ),
        before: figures.before,
        after: figures.after,
        result: "the other 997 lines completed".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make pressure"]
async fn large_loads_are_pushed_back() {
    let rows =
        [one_upload().await, many_uploads().await, many_webhooks().await, unanswered_line().await, dead_lines().await];
    println!("\n| load | pushed back | memory before | peak memory | result |\n| --- | --- | --- | --- | --- |");
    for Row { load, pushed_back, before, after, result } in rows {
        println!("| {load} | {pushed_back} | {} | {} | {result} |", mib(before.now), mib(after.peak));
    }
}
