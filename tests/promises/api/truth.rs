//! What happens to each recipient, decided by the test. The expected responses of the API are counted from it.

use std::collections::BTreeMap;

use pregon::domain::{CampaignId, ClaimedRow, Due, News, PartId, Settled};
use serde_json::{Value, json};

use super::harness::{Api, wamid};
use crate::support::meta_code;

/// The outcome and the statuses that a recipient gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Pending,
    InFlight,
    Retrying,
    InDoubt,
    Refused,
    Accepted,
    Sent,
    FailedLater,
    Delivered,
    Read,
    ReadAndReplied,
}

impl Fate {
    pub const ALL: [Fate; 11] = [
        Fate::Pending,
        Fate::InFlight,
        Fate::Retrying,
        Fate::InDoubt,
        Fate::Refused,
        Fate::Accepted,
        Fate::Sent,
        Fate::FailedLater,
        Fate::Delivered,
        Fate::Read,
        Fate::ReadAndReplied,
    ];

    pub fn state(self) -> &'static str {
        match self {
            Fate::Pending => "pending",
            Fate::InFlight => "in_flight",
            Fate::Retrying => "retrying",
            Fate::InDoubt => "in_doubt",
            Fate::Refused | Fate::FailedLater => "failed",
            Fate::Accepted => "accepted",
            Fate::Sent => "sent",
            Fate::Delivered => "delivered",
            Fate::Read | Fate::ReadAndReplied => "read",
        }
    }

    pub fn code(self) -> Option<u32> {
        match self {
            Fate::Refused => Some(131_026),
            Fate::FailedLater => Some(131_049),
            Fate::Retrying => Some(131_000),
            _ => None,
        }
    }

    fn settled(self, n: u64, api: &Api) -> Option<Settled> {
        let later = api.now().after(std::time::Duration::from_secs(3600));
        match self {
            Fate::Pending => Some(Settled::Back { at: Due::At(api.now()) }),
            Fate::InFlight => None,
            Fate::Retrying => Some(Settled::Retry { at: later, reason: meta_code(131_000) }),
            Fate::InDoubt => Some(Settled::InDoubt { until: later }),
            Fate::Refused => Some(Settled::Refused { reason: meta_code(131_026) }),
            Fate::Accepted | Fate::Sent | Fate::FailedLater | Fate::Delivered | Fate::Read | Fate::ReadAndReplied => {
                Some(Settled::Accepted(wamid(n)))
            }
        }
    }

    fn news(self) -> &'static [News] {
        const FAILED: News = News::Failed(meta_code(131_049));
        match self {
            Fate::Sent => &[News::Sent],
            Fate::FailedLater => &[News::Sent, FAILED, FAILED],
            // Out of order, repeated, and with steps that Meta never reported.
            Fate::Delivered => &[News::Delivered, News::Sent, News::Delivered],
            Fate::Read => &[News::Read, News::Delivered],
            Fate::ReadAndReplied => &[News::Sent, News::Read, News::Replied, News::Replied],
            _ => &[],
        }
    }
}

/// Fates by part and row.
pub type Truth = BTreeMap<(PartId, u16), Fate>;

/// Claims every recipient of a running campaign and applies the fates to them in turn.
pub async fn apply_fates(api: &Api, campaign: CampaignId) -> Truth {
    let mut truth = Truth::new();
    for (part, _) in api.parts(campaign).await {
        let rows = api.claim(part, 100_000).await;
        let fates: Vec<(ClaimedRow, Fate)> = rows.into_iter().zip(Fate::ALL.into_iter().cycle()).collect();
        let settled = fates.iter().filter_map(|&(row, fate)| Some((row, fate.settled(row.row.into(), api)?)));
        api.settle(part, settled.collect()).await;
        let news = fates.iter().flat_map(|&(row, fate)| fate.news().iter().map(move |&news| (row, news)));
        api.apply(part, &news.collect::<Vec<_>>()).await;
        truth.extend(fates.into_iter().map(|(row, fate)| ((part, row.row), fate)));
    }
    truth
}

/// The expected `recipients`, `by_state` and `funnel`.
pub fn counts(truth: &Truth) -> Value {
    let count = |of: &dyn Fn(Fate) -> bool| truth.values().filter(|&&fate| of(fate)).count();
    let state = |name: &str| count(&|fate| fate.state() == name);
    let accepted = [Fate::Accepted, Fate::FailedLater];
    let read = state("read");
    let delivered = read + state("delivered");
    let sent = delivered + state("sent");
    json!({
        "recipients": truth.len(),
        "by_state": {
            "pending": state("pending"), "in_flight": state("in_flight"), "retrying": state("retrying"),
            "in_doubt": state("in_doubt"), "accepted": state("accepted"), "sent": state("sent"),
            "delivered": state("delivered"), "read": state("read"), "failed": state("failed"), "skipped": 0,
            "expired": 0, "cancelled": 0, "unknown": 0,
        },
        "funnel": {
            "attempted": truth.len() - state("pending"), "accepted": sent + count(&|fate| accepted.contains(&fate)),
            "sent": sent, "delivered": delivered, "read": read,
            "replied": count(&|fate| fate == Fate::ReadAndReplied),
        },
    })
}

/// The same fields of the statistics that the API returned.
pub fn counts_of(statistics: &Value) -> Value {
    json!({ "recipients": statistics["recipients"], "by_state": statistics["by_state"], "funnel": statistics["funnel"] })
}
