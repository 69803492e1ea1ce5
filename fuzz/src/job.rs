//! An entry of the stream of jobs.

use pregon::{
    domain::RawRecipient,
    intake::job::{Job, RecipientsJob},
};
use serde_json::Value;

use super::{sendable::sendable, takes_at_most};

/// What is read as a job says the same to a plain reading of its JSON, and its recipients that are taken can be sent.
pub fn job(input: &[u8]) {
    let Ok(job) = takes_at_most(64, 8192, input, Job::read) else { return };
    let json = serde_json::from_slice::<Value>(input).ok();
    // Recipients may be nested deeper than a tree can be read; that is found when each is read.
    let said = |field: &str| json.as_ref().map(|json| json[field].clone());
    let (kind, external_id, recipients) = match &job {
        Job::Campaign(new) => ("campaign", new.external_id.as_deref(), new.recipients.as_slice()),
        Job::Recipients(RecipientsJob { external_id, recipients, .. }) => {
            ("recipients", Some(external_id.as_str()), recipients.as_slice())
        }
        Job::Change(action, named) => {
            let json = serde_json::to_value(format!("{action:?}").to_lowercase()).expect("a word");
            assert!(said("type").is_none_or(|kind| kind == json));
            return assert!(said("external_id").is_none_or(|id| id == named.external_id.as_str()));
        }
    };
    assert!(said("type").is_none_or(|said| said == kind));
    assert!(said("external_id").is_none_or(|said| said.as_str() == external_id));
    assert!(said("recipients").is_none_or(|said| said.as_array().map_or(0, Vec::len) == recipients.len()));
    assert!(recipients.iter().map(|recipient| recipient.get().len()).sum::<usize>() <= input.len());
    for recipient in recipients {
        if let Ok(raw) = RawRecipient::from_json(recipient.get().as_bytes()) {
            sendable(&raw);
        }
    }
}
