//! Properties of the parser of jobs.

use pregon::{
    domain::RawRecipient,
    intake::job::{Job, RecipientsJob, RetryJob},
};
use serde_json::Value;

use super::{sendable::sendable, within_memory};

/// A parsed job has the same fields as a plain parse of its JSON, and its valid recipients can be sent.
pub fn job(input: &[u8]) {
    let Ok(job) = within_memory(64, 8192, input, Job::read) else { return };
    let json = serde_json::from_slice::<Value>(input).ok();
    // `None` if the plain parse fails: a recipient may be nested too deeply for it. Parsing that recipient reports it.
    let plain = |field: &str| json.as_ref().map(|json| json[field].clone());
    let (kind, external_id, recipients) = match &job {
        Job::Campaign(new) => ("campaign", new.external_id.as_deref(), new.recipients.as_slice()),
        Job::Recipients(RecipientsJob { external_id, recipients, .. }) => {
            ("recipients", Some(external_id.as_str()), recipients.as_slice())
        }
        Job::Change(action, named) => {
            let json = serde_json::to_value(format!("{action:?}").to_lowercase()).expect("a word");
            assert!(plain("type").is_none_or(|kind| kind == json));
            return assert!(plain("external_id").is_none_or(|id| id == named.external_id.as_str()));
        }
        Job::Retry(RetryJob { dead_letter }) => {
            assert!(plain("type").is_none_or(|kind| kind == "retry"));
            let named = |id: Value| id.as_str().and_then(|id| id.parse().ok()) == Some(*dead_letter);
            return assert!(plain("dead_letter").is_none_or(named));
        }
    };
    assert!(plain("type").is_none_or(|plain| plain == kind));
    assert!(plain("external_id").is_none_or(|plain| plain.as_str() == external_id));
    assert!(plain("recipients").is_none_or(|plain| plain.as_array().map_or(0, Vec::len) == recipients.len()));
    assert!(recipients.iter().map(|recipient| recipient.get().len()).sum::<usize>() <= input.len());
    for recipient in recipients {
        if let Ok(raw) = RawRecipient::from_json(recipient.get().as_bytes()) {
            sendable(&raw);
        }
    }
}
