use std::collections::HashSet;

use super::*;

fn part() -> PartId {
    "01J9ZK3V5T8R7Q6P5N4M3K2J1H.12".parse().expect("a part")
}

fn traces(share: f64, length: usize) -> (Traces, mpsc::Receiver<Span>) {
    let (sender, spans) = mpsc::channel(length);
    (Traces::recording(share, sender), spans)
}

fn sampled(share: f64) -> HashSet<u16> {
    let traces = traces(share, 1).0;
    (0..=u16::MAX).filter(|row| traces.of_recipient(part(), *row).is_some()).collect()
}

#[test]
fn a_share_of_the_recipients_is_sampled() {
    let [none, few, more, all] = [0.0, 0.001, 0.1, 1.0].map(sampled);
    assert_eq!((none.len(), all.len()), (0, 65_536));
    assert!((50..80).contains(&few.len()) && (6_300..6_800).contains(&more.len()), "{} {}", few.len(), more.len());
    assert!(few.is_subset(&more), "a larger share has the recipients of a smaller one");
    assert!(Traces::default().of_recipient(part(), 0).is_none());
}

#[test]
fn processes_of_every_release_have_the_same_ids() {
    let trace = traces(1.0, 1).0.of_recipient(part(), 65_535).expect("every recipient is sampled");
    assert_eq!(trace.id.to_string(), "1257b7dbf73bea4e18a11ae011a2c646");
    assert_eq!(trace.span_id(SpanName::Root).to_string(), "265dd147bbbe8ba7");
    assert_eq!(trace.span_id(SpanName::Send(2)).to_string(), "1f23258838ae7dad");
}

#[test]
fn spans_that_do_not_fit_into_the_queue_are_dropped() {
    let (traces, mut spans) = traces(1.0, 2);
    let origin = Origin::calls(traces);
    origin.admitted(part(), 0..5, clock::system_time());
    assert_eq!((spans.try_recv().is_ok(), spans.try_recv().is_ok(), spans.try_recv().is_ok()), (true, true, false));
}

#[test]
fn a_request_needs_a_valid_traceparent() {
    let origin = Origin::jobs(traces(1.0, 1).0);
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = |traceparent: &str| origin.request("job".to_owned(), traceparent);
    assert!(request(&format!("00-{trace}-{span}-01")).is_some() && request(&format!("00-{trace}-{span}-00")).is_some());
    assert!(request(&format!("01-{trace}-{span}-01-further")).is_some(), "later versions may have further fields");
    for bad in [
        String::new(),
        format!("00-{trace}-{span}"),
        format!("00-{trace}-{span}-01-further"),
        format!("ff-{trace}-{span}-01"),
        format!("00-{trace}-0000000000000000-01"),
        format!("00-{:032}-{span}-01", 0),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("00-{trace}-+7ad6b7169203331-01"),
    ] {
        assert!(request(&bad).is_none(), "{bad}");
    }
    assert!(Origin::default().request("job".to_owned(), &format!("00-{trace}-{span}-01")).is_none());
}
