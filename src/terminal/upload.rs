//! Streams a file to the server: recipients, or suppressions.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Body;
use tokio::time::sleep;

use super::{CommandError, source::Source, table, words};
use crate::{api_types::UploadResult, client, domain::Reject};

/// The maximum number of reasons for rejected rows that are shown to people. With `--json`, all rows that the server
/// returned are printed.
const REASONS_SHOWN_MAX: usize = 20;
/// Wait before an interrupted upload is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Streams a file to the server with `request`. A broken connection is retried once: the whole file is sent again, and
/// the server ignores the rows that it already has.
pub(super) async fn send(
    source: &Source,
    request: impl AsyncFn(Body) -> client::Result<UploadResult>,
) -> Result<UploadResult, CommandError> {
    let bar = progress_bar(source.bytes);
    let mut tries = 0;
    loop {
        bar.reset();
        let counter = bar.clone();
        let rows = source.stream().await?.inspect_ok(move |chunk| counter.inc(chunk.len() as u64));
        match request(Body::wrap_stream(rows)).await {
            Err(error) if error.is_connection_error() && tries == 0 => {
                tries += 1;
                sleep(RETRY_PAUSE).await;
            }
            ended => {
                bar.finish_and_clear();
                return Ok(ended?);
            }
        }
    }
}

/// Progress in bytes, on standard error: standard output is for the result.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes} · {bytes_per_sec} · {eta} left");
    ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()).with_style(style.expect("a good template"))
}

/// The first rejected rows by reason, as the text below the line that has the number of rejected rows.
pub(super) fn rejections(UploadResult { rejected_count, rejected, .. }: &UploadResult) -> String {
    let groups = table::same_reason(rejected);
    let shown = &groups[..groups.len().min(REASONS_SHOWN_MAX)];
    let mut text = String::new();
    if !shown.is_empty() {
        text += &format!("\n\n{}\n", table::rejections(shown));
    }
    let n_shown = shown.iter().map(|group| group.len() as u64).sum();
    if *rejected_count > n_shown {
        text += &format!("\nThese are {}; --json prints the first 1,000.", words::counted(n_shown, "row"));
    }
    text
}

/// Why a command that uploaded a file must fail; `None` if enough was accepted. Rows after an unclosed quote were not
/// read, or more rows were rejected than `max_rejected` allows.
pub(super) fn shortfall(uploaded: &UploadResult, max_rejected: Option<u64>) -> Option<String> {
    if let Some(unclosed) = uploaded.rejected.iter().find(|rejection| rejection.code == Reject::UnclosedQuote.code()) {
        let from = unclosed.line.map_or_else(|| format!("row {}", unclosed.row), |line| format!("line {line}"));
        return Some(format!("the file could not be read from {from} on, because a closing quote is missing there"));
    }
    let max = max_rejected.filter(|max| uploaded.rejected_count > *max)?;
    let verb = if uploaded.rejected_count == 1 { "is" } else { "are" };
    let rejected = words::counted(uploaded.rejected_count, "row");
    Some(format!("{rejected} {verb} rejected, more than --max-rejected {max} allows"))
}
