//! Ramp: the knee, which is the highest load that an installation keeps up with.
//!
//! A load is *kept* if at least `achieved_percent` of it arrives in its time, and 99 % of its messages are on the wire
//! within `p99_ms` of their due time. The load is doubled until one is not kept, and then halved between the highest that
//! was kept and the lowest that was not, until these are `within_percent` of each other. A load that is not kept is
//! offered once more, because a busy machine may have disturbed it.
//!
//! What is counted: [`super::offer`].

use super::{
    offer::{Offered, offer},
    progress,
};
use crate::{
    error::LoadError,
    plot::{Plot, Series},
    report::Findings,
    scenario::Ramp,
    under_test::UnderTest,
};
use pregon::terminal::words;

/// How often a load is offered before it counts as not kept.
const TRIES: usize = 2;

/// The loads that were offered, in the order of the search.
type Step = (f64, bool, Vec<Offered>);

/// Runs the workload.
///
/// Errors: not even the lowest load is kept.
pub(crate) async fn run(to: &mut impl UnderTest, ramp: &Ramp) -> Result<Findings, LoadError> {
    // Opens the connections.
    offer(to, ramp.from, ramp.warm_up, ramp.duration).await?;
    let (mut search, mut steps) = (Search::default(), Vec::<Step>::new());
    while let Some(load) = search.next(ramp) {
        let mut tries = Vec::with_capacity(TRIES);
        let mut kept = false;
        while !kept && tries.len() < TRIES {
            let offered = offer(to, load, ramp.warm_up, ramp.duration).await?;
            kept = is_kept(&offered, ramp);
            let (percent, p50, p99) = (offered.achieved_percent(), offered.late_ms(0.5), offered.late_ms(0.99));
            let verdict = if kept { "kept" } else { "not kept" };
            progress(&format!(
                "{:>9}/s: {percent:.1} % arrived, p50 {p50:.1} ms, p99 {p99:.1} ms: {verdict}",
                words::count(load as u64)
            ));
            tries.push(offered);
        }
        search.tried(load, kept);
        steps.push((load, kept, tries));
    }
    let Some(knee) = search.kept else {
        return Err(LoadError::Failed(format!("not even {} messages per second are kept", steps[steps.len() - 1].0)));
    };
    let bound = if search.not_kept.is_some() { "" } else { " or more: the highest load of the ramp was kept" };
    progress(&format!("the knee is at {} messages per second{bound}", words::count(knee as u64)));
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(findings(knee, &steps))
}

fn is_kept(offered: &Offered, ramp: &Ramp) -> bool {
    offered.achieved_percent() >= ramp.achieved_percent && offered.late_ms(0.99) <= ramp.p99_ms
}

/// The figures by load. A load that was offered twice has two rounds.
fn findings(knee: f64, steps: &[Step]) -> Findings {
    let mut findings = Findings::default();
    findings.one("knee_per_second", "", knee);
    for (load, kept, tries) in steps {
        let case = format!("{}/s", words::count(*load as u64));
        let of_each = |value: &dyn Fn(&Offered) -> f64| tries.iter().map(value).collect::<Vec<_>>();
        findings.one("load_kept", &case, f64::from(u8::from(*kept)));
        findings.case("load_achieved_per_second", &case, of_each(&|offered| offered.achieved));
        findings.case("load_achieved_percent", &case, of_each(&Offered::achieved_percent));
        for (name, quantile) in [("load_p50_ms", 0.5), ("load_p99_ms", 0.99), ("load_max_ms", 1.0)] {
            findings.case(name, &case, of_each(&|offered| offered.late_ms(quantile)));
        }
        for (at, (name, _)) in tries[0].cores().into_iter().enumerate() {
            findings.case(&format!("load_{name}"), &case, of_each(&|offered| offered.cores()[at].1));
        }
    }
    let by_load = |name: &str, value: &dyn Fn(&Offered) -> f64| Series {
        name: name.into(),
        points: steps.iter().flat_map(|(load, _, tries)| tries.last().map(|last| (*load, value(last)))).collect(),
    };
    let offered = Series { name: "offered".into(), points: steps.iter().map(|(load, ..)| (*load, *load)).collect() };
    let title = format!("messages that arrived, by load; the knee is at {}/s", words::count(knee as u64));
    let arrived = vec![by_load("arrived", &|offered| offered.achieved), offered];
    findings.plots.push(Plot::by_load("throughput", title, "messages/s", arrived));
    let late = vec![by_load("p99", &|offered| offered.late_ms(0.99)), by_load("p50", &|offered| offered.late_ms(0.5))];
    findings.plots.push(Plot::by_load("lateness", "from due to the wire, by load".into(), "ms", late));
    let of_knee = steps.iter().find(|(load, ..)| *load == knee).and_then(|(.., tries)| tries.last());
    let at_knee = of_knee.map(|offered| Series::quantiles("from due to the wire, at the knee", &offered.late));
    findings.plots.push(Plot::latency(at_knee.into_iter().collect()));
    findings
}

/// The state of the search.
#[derive(Default)]
struct Search {
    /// The highest load that was kept.
    kept: Option<f64>,
    /// The lowest load that was not.
    not_kept: Option<f64>,
}

impl Search {
    /// The next load to offer; `None` if the knee is known well enough, or is outside the range.
    fn next(&self, ramp: &Ramp) -> Option<f64> {
        match (self.kept, self.not_kept) {
            (None, None) => Some(ramp.from),
            (Some(kept), None) => (kept < ramp.to).then(|| (kept * 2.0).min(ramp.to)),
            // Down from the first load, to a thousandth of it.
            (None, Some(not_kept)) => Some(not_kept / 2.0).filter(|load| *load >= ramp.from / 1_000.0),
            (Some(kept), Some(not_kept)) => {
                let is_known = not_kept / kept <= 1.0 + ramp.within_percent / 100.0;
                (!is_known).then(|| f64::midpoint(kept, not_kept))
            }
        }
    }

    fn tried(&mut self, load: f64, kept: bool) {
        *(if kept { &mut self.kept } else { &mut self.not_kept }) = Some(load);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RAMP: Ramp = Ramp {
        from: 1_000.0,
        to: 50_000.0,
        within_percent: 5.0,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(1),
        achieved_percent: 97.0,
        p99_ms: 250.0,
    };

    /// The loads that are offered to something that keeps up to `knee` messages per second, and the knee that is found.
    fn search(knee: f64) -> (Vec<f64>, Option<f64>) {
        let (mut search, mut loads) = (Search::default(), Vec::new());
        while let Some(load) = search.next(&RAMP) {
            loads.push(load);
            search.tried(load, load <= knee);
        }
        (loads, search.kept)
    }

    #[test]
    fn the_load_is_doubled_and_then_halved_around_the_knee() {
        let (loads, knee) = search(5_300.0);
        assert_eq!(loads, [1_000.0, 2_000.0, 4_000.0, 8_000.0, 6_000.0, 5_000.0, 5_500.0, 5_250.0]);
        assert_eq!(knee, Some(5_250.0));
    }

    #[test]
    fn the_knee_is_found_within_its_precision_from_above_and_below() {
        for of in [3.0, 70.0, 999.0, 1_000.0, 1_001.0, 49_000.0] {
            let (_, knee) = search(of);
            let knee = knee.unwrap_or_else(|| panic!("{of} is found"));
            assert!(knee <= of && of <= knee * 1.05, "{knee} for {of}");
        }
        assert_eq!(search(1e9).1, Some(50_000.0), "at most the highest load");
        assert_eq!(search(0.5).1, None);
    }
}
