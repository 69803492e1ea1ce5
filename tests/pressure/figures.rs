//! `make pressure`: the scenarios large, and what they came to, as it stands in docs/reliability.md.

use std::time::Duration;

use crate::{
    dead_line,
    memory::{Memory, mib},
    slow_meta, uploads, webhooks,
};

/// One line of the table.
struct Row {
    what: String,
    pushed_back: String,
    before: Memory,
    after: Memory,
    came_to: String,
}

async fn of_one_upload() -> Row {
    let size = uploads::Size { rows: 100_000, row_bytes: 4_000, delay: Duration::from_millis(2) };
    let figures = uploads::play(size).await;
    let sent = mib(size.rows * size.row_bytes as u64);
    Row {
        what: format!("an upload of {sent}; Redis stops in its middle, and is slow when it is repeated"),
        pushed_back: format!("503; {} lay in buffers of the system until then", mib(figures.buffered_bytes)),
        before: figures.before,
        after: figures.after,
        came_to: format!("{} recipients, each once", size.rows),
    }
}

async fn of_many_uploads() -> Row {
    let size = uploads::Size { rows: 4_096, row_bytes: 1_000, delay: Duration::from_millis(2) };
    let figures = uploads::play_many(size, uploads::AT_ONCE).await;
    Row {
        what: format!(
            "{} uploads of {} at once; Redis is slow",
            uploads::AT_ONCE,
            mib(size.rows * size.row_bytes as u64)
        ),
        pushed_back: format!("{} answers 503, and repeated", figures.refused),
        before: figures.before,
        after: figures.after,
        came_to: format!("{} recipients, each once", size.rows * uploads::AT_ONCE),
    }
}

async fn of_webhooks() -> Row {
    let size = webhooks::Size { messages: 60_000, statuses_each: 250, delay: Duration::from_millis(20) };
    let figures = webhooks::play(size).await;
    let (n, away, slow) = (figures.webhooks, figures.refused_while_away, figures.refused_while_slow);
    Row {
        what: format!(
            "{n} webhooks of {} statuses at once, {}; Redis is stopped, then slow",
            size.statuses_each,
            mib(figures.bytes)
        ),
        pushed_back: format!("{away} ({} %) answered 503 at once while it was stopped, then {slow}", 100 * away / n),
        before: figures.before,
        after: figures.after,
        came_to: format!("{} statuses, each counted once", 3 * size.messages),
    }
}

async fn of_a_slow_meta() -> Row {
    let size = slow_meta::Size { in_flight_max: 1_000, latency: Duration::from_secs(1), attempt_bytes_max: 100 << 10 };
    let figures = slow_meta::play(size).await;
    Row {
        what: "a line of 1,000 a second, and none of its sends is answered".to_owned(),
        pushed_back: format!("{} attempts open, and no more", figures.most_open),
        before: figures.before,
        after: figures.after,
        came_to: "two other lines done meanwhile; a pause and a stop left nothing in doubt".to_owned(),
    }
}

async fn of_dead_lines() -> Row {
    let size = dead_line::Size { rate: 4.0, compared_at: 8 };
    let figures = dead_line::play(size).await;
    let stood = |standing: dead_line::Standing| {
        let dead_line::Standing { fewest, most, took } = standing;
        format!("{fewest} to {most} of a line after {:.1} s", took.as_secs_f64())
    };
    Row {
        what: format!("1,000 lines of {} a second, three of them dead", size.rate),
        pushed_back: format!(
            "at {} messages a line: {}; with all well {}",
            size.compared_at,
            stood(figures.with_dead),
            stood(figures.well)
        ),
        before: figures.before,
        after: figures.after,
        came_to: "the other 997 done".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make pressure"]
async fn what_comes_too_fast_is_pushed_back_also_when_it_is_much() {
    let rows = [
        of_one_upload().await,
        of_many_uploads().await,
        of_webhooks().await,
        of_a_slow_meta().await,
        of_dead_lines().await,
    ];
    println!("\n| what comes | pushed back | memory before | its peak | in the end |\n| --- | --- | --- | --- | --- |");
    for Row { what, pushed_back, before, after, came_to } in rows {
        println!("| {what} | {pushed_back} | {} | {} | {came_to} |", mib(before.now), mib(after.peak));
    }
}
