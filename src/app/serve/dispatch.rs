//! The role `dispatch`: starts the worker that sends, housekeeping, the reading of what Meta allows, and the indexing
//! of message ids.

use std::sync::PoisonError;

use super::{Context, ServeError};
use crate::{
    dispatch::{
        DispatchSettings,
        allowances::AllowanceReader,
        housekeeping::Housekeeping,
        indexing::Indexing,
        worker::{OpenOnLine, OpenWork, Worker},
    },
    domain::{LineId, RetryPolicy, campaign::FEATURES},
    feed::Feed,
    graph::GraphClient,
    telemetry::metrics::MetricsPage,
};

/// The factor by which the upper limit of the wait grows from one retry to the next.
const RETRY_MULTIPLIER: f64 = 3.0;

/// Starts the tasks of the role, which publish to `metrics`. The worker reports its open work in `open`.
pub(super) fn start(context: &Context<'_>, open: OpenWork, metrics: &MetricsPage) -> Result<(), ServeError> {
    let dispatch = &context.config.dispatch;
    let graph = context.config.graph.client();
    let retry =
        RetryPolicy::new(dispatch.retry.initial, RETRY_MULTIPLIER, dispatch.retry.max, dispatch.retry.attempts)?;
    let worker = Worker {
        name: context.worker.clone(),
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        settings: DispatchSettings {
            headroom: dispatch.headroom,
            doubt_deadline: dispatch.doubt_deadline,
            lease: dispatch.lease,
            retry,
            in_flight_max: dispatch.in_flight_max,
            pair_spacing: dispatch.pair_spacing,
            id_retention: context.config.id_retention,
            features: FEATURES,
            contact_hours: context.configured.contact_hours.clone(),
            traces: context.traces.clone(),
        },
        graph: graph.clone(),
        token_key: context.token_key.clone(),
        threads: dispatch.threads,
        health: context.health.clone(),
        open,
        metrics: metrics.lines.clone(),
    };
    context.shutdown.core("dispatch", worker.run(context.shutdown.stopping()));
    let housekeeping = Housekeeping {
        name: context.worker.clone(),
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        businesses: context.configured.businesses.clone(),
        graph: GraphClient::new(graph.clone())?,
        lease: dispatch.lease,
        templates_every: dispatch.templates_every,
        late_after: dispatch.late_after,
        retention: context.config.retention,
        inbound: context.config.inbound,
        doubt_deadline: dispatch.doubt_deadline,
        attempts_max: dispatch.retry.attempts,
        metrics: metrics.housekeeping.clone(),
    };
    context.shutdown.core("housekeeping", housekeeping.run(context.shutdown.stopping()));
    let allowances = AllowanceReader {
        store: context.store.clone(),
        clock: context.clock.clone(),
        lines: context.configured.lines.clone(),
        graph: GraphClient::new(graph)?,
    };
    context.shutdown.core("allowances", allowances.run(context.shutdown.stopping()));
    let indexing = Indexing {
        name: context.worker.clone(),
        store: context.store.clone(),
        clock: context.clock.clone(),
        lease: dispatch.lease,
        id_retention: context.config.id_retention,
    };
    context.shutdown.core("indexing", indexing.run(context.shutdown.stopping()));
    if let Some(limits) = context.config.feed {
        let feed = Feed {
            name: context.worker.clone(),
            store: context.store.clone(),
            clock: context.clock.clone(),
            lines: context.configured.lines.clone(),
            lease: dispatch.lease,
            retention: context.config.retention,
        };
        context.shutdown.core("feed", feed.run_behind(limits, context.shutdown.stopping()));
    }
    Ok(())
}

/// The open work, as a stop logs it: `4 attempts: 3001 x3, 3002 x1; 1 outcome to store: 3001 x1`.
pub(super) fn open_work(open: &OpenWork) -> String {
    let open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |count: fn(&OpenOnLine) -> usize| open.iter().map(move |(line, open)| (line, count(open)));
    let attempts = counted(["attempt", "attempts"], of(|open| open.attempts));
    match of(|open| open.outcomes).all(|(_, n)| n == 0) {
        true => attempts,
        false => attempts + "; " + &counted(["outcome to store", "outcomes to store"], of(|open| open.outcomes)),
    }
}

/// `4 attempts: 3001 x3, 3002 x1`, with a noun in singular and plural.
fn counted<'l>([one, many]: [&str; 2], by_line: impl Iterator<Item = (&'l LineId, usize)>) -> String {
    let by_line: Vec<_> = by_line.filter(|(_, n)| *n > 0).collect();
    let total = by_line.iter().map(|(_, n)| n).sum::<usize>();
    let lines: Vec<String> = by_line.iter().map(|(line, n)| format!("{line} x{n}")).collect();
    let what = format!("{total} {}", if total == 1 { one } else { many });
    if lines.is_empty() { what } else { format!("{what}: {}", lines.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn open_work_is_counted_by_line_in_good_english() {
        let text = |lines: &[(&str, usize, usize)]| {
            let lines = lines.iter().map(|&(id, attempts, outcomes)| (id.into(), OpenOnLine { attempts, outcomes }));
            open_work(&OpenWork::new(lines.collect::<BTreeMap<LineId, _>>().into()))
        };
        assert_eq!(text(&[]), "0 attempts");
        assert_eq!(text(&[("3001", 3, 0), ("3002", 1, 0)]), "4 attempts: 3001 x3, 3002 x1");
        assert_eq!(text(&[("3001", 0, 0), ("3002", 1, 0)]), "1 attempt: 3002 x1");
        assert_eq!(text(&[("3001", 0, 57), ("3002", 0, 1)]), "0 attempts; 58 outcomes to store: 3001 x57, 3002 x1");
        assert_eq!(text(&[("3001", 1, 1)]), "1 attempt: 3001 x1; 1 outcome to store: 3001 x1");
    }
}
