//! Shows the progress of a campaign on standard output: a live view on a terminal, otherwise a line for each change.

use std::io;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{out, words};
use crate::{api_types::Statistics, domain::UnixMs, telemetry::clock};

/// The view of one campaign.
pub struct CampaignProgress(View);

enum View {
    Live(Live),
    /// The last line that was printed, without its time. It is not printed again until something changes.
    Lines(String),
}

struct Live {
    all: MultiProgress,
    bar: ProgressBar,
    funnel: ProgressBar,
    rest: ProgressBar,
    waits: Vec<ProgressBar>,
}

impl CampaignProgress {
    /// The view of a campaign with `total` recipients, before the first statistics arrive.
    pub fn new(total: u64) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        Self(match all.is_hidden() {
            true => View::Lines(String::new()),
            false => View::Live(Live::new(all, total)),
        })
    }

    /// Shows `statistics`.
    ///
    /// Errors: standard output is closed.
    pub fn update(&mut self, statistics: &Statistics) -> io::Result<()> {
        let now = clock::now();
        match &mut self.0 {
            View::Live(live) => live.update(statistics, now),
            View::Lines(last) => {
                let line = plain(statistics, now);
                if line != *last {
                    out::line(&format!("{}  {line}", words::time(now)))?;
                    *last = line;
                }
            }
        }
        Ok(())
    }

    /// Ends the view. The last state stays on screen, and later output is printed below it.
    ///
    /// Errors: standard output is closed.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            View::Live(live) => {
                live.finish();
                // The cursor is at the end of the last line.
                out::line("")
            }
            View::Lines(_) => Ok(()),
        }
    }
}

impl Live {
    fn new(all: MultiProgress, total: u64) -> Self {
        let add = |length, style| all.add(ProgressBar::new(length).with_style(style));
        let bar = add(total, ProgressStyle::with_template("{wide_bar} {msg}").expect("a good template"));
        let (funnel, rest) = (add(0, text_style()), add(0, text_style()));
        Self { bar, funnel, rest, waits: Vec::new(), all }
    }

    fn update(&mut self, statistics: &Statistics, now: UnixMs) {
        self.bar.set_length(statistics.recipients);
        self.bar.set_position(statistics.done());
        self.bar.set_message(pace(statistics, now));
        self.funnel.set_message(words::funnel(statistics));
        self.rest.set_message(words::rest(statistics));
        let waits = words::waiting_for(&statistics.waiting_for);
        while self.waits.len() < waits.len() {
            self.waits.push(self.all.add(ProgressBar::new(0).with_style(text_style())));
        }
        for gone in self.waits.drain(waits.len()..) {
            self.all.remove(&gone);
        }
        for (line, wait) in self.waits.iter().zip(waits) {
            line.set_message(wait);
        }
    }

    fn finish(self) {
        for line in self.waits.iter().chain([&self.rest, &self.funnel, &self.bar]) {
            line.abandon();
        }
    }
}

/// The style of a line of text. A line that is wider than the terminal is wrapped, because a truncated number would
/// read as another number.
fn text_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").expect("a good template")
}

/// How far the campaign got, and how fast: `45,210 of 100,000 · 45.2 % · 79.6/s · 12m 5s left`.
fn pace(statistics: &Statistics, now: UnixMs) -> String {
    let (done, all) = (statistics.done(), statistics.recipients);
    let mut pace = vec![format!("{} of {}", words::count(done), words::count(all))];
    pace.extend(Some(words::share(done, all)).filter(|share| !share.is_empty()));
    pace.push(format!("{:.1}/s", statistics.rate_per_second));
    pace.extend(words::left(statistics, now));
    pace.join(" · ")
}

/// The whole view as one line, for a file or a pipe.
fn plain(statistics: &Statistics, now: UnixMs) -> String {
    let mut parts = vec![pace(statistics, now), words::funnel(statistics), words::rest(statistics)];
    parts.push(words::waiting_for(&statistics.waiting_for).join(" "));
    parts.retain(|part| !part.is_empty());
    parts.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::{ByState, Funnel, WaitReason, Waiting};

    fn half_way() -> Statistics {
        let by_state = ByState { pending: 1_200, read: 700, failed: 100, ..ByState::default() };
        let funnel = Funnel { attempted: 800, accepted: 700, sent: 700, delivered: 700, read: 700, replied: 3 };
        let wait = Waiting { line: Some("3001".into()), ..Waiting::new(WaitReason::LineRate, "") };
        Statistics {
            recipients: 2_000,
            by_state,
            funnel,
            rate_per_second: 79.6,
            eta: Some(UnixMs(15_000)),
            waiting_for: vec![wait],
            ..Statistics::default()
        }
    }

    #[test]
    fn a_plain_line_has_progress_rate_time_left_funnel_and_waits() {
        assert_eq!(
            plain(&half_way(), UnixMs(0)),
            "800 of 2,000 · 40.0 % · 79.6/s · 15s left \
             | attempted 800 · accepted 700 · sent 700 · delivered 700 · read 700 · replied 3 \
             | pending 1,200 · failed 100 | On line 3001: the campaign sends as fast as the rate allows."
        );
        assert_eq!(
            plain(&Statistics::default(), UnixMs(0)),
            "0 of 0 · 0.0/s | attempted 0 · accepted 0 · sent 0 · delivered 0 · read 0 · replied 0"
        );
    }

    #[test]
    fn a_live_view_follows_its_campaign() {
        let mut live = Live::new(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), 10);
        assert_eq!(live.bar.length(), Some(10));
        live.update(&half_way(), UnixMs(0));
        assert_eq!(
            (live.bar.length(), live.bar.position()),
            (Some(2_000), 800),
            "recipients may be added while the campaign runs"
        );
        assert_eq!(live.bar.message(), "800 of 2,000 · 40.0 % · 79.6/s · 15s left");
        assert_eq!(live.waits.len(), 1);
        live.update(&Statistics { waiting_for: Vec::new(), ..half_way() }, UnixMs(0));
        assert!(live.waits.is_empty(), "a reason that no longer applies is removed");
        live.finish();
    }
}
