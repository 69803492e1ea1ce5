//! Every key in Redis.
//!
//! Keys of one part share the hash tag `{campaign.part}`, keys of one campaign `{campaign}`, keys of one line
//! `{l:line}`, keys of one business `{b:business}`, keys of one duty `{d:duty}`. Other keys have no tag. A script
//! touches keys of one tag only, or a single key without a tag, because a Redis Cluster requires it.

use std::sync::Arc;

use crate::domain::{BusinessId, CampaignId, LineId, PartId, SubscriberId, WabaId};

/// Builds keys under a namespace (`pregon` unless configured otherwise).
#[derive(Clone, Debug)]
pub struct RedisKeys {
    namespace: Arc<str>,
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $format:literal;)*) => {
        impl RedisKeys {
            $($(#[$doc])*
            pub fn $name(&self $(, $arg: $type)*) -> String {
                format!("{}:{}", self.namespace, format_args!($format))
            })*
        }
    };
}

keys! {
    /// STREAM of jobs, field `job`: the contract with backends.
    jobs() => "jobs";
    /// STREAM of dead letters: jobs that failed, with `reason`.
    dead_jobs() => "jobs:dead";
    /// ZSET of all campaigns, score = creation time in ms.
    campaigns() => "campaigns";
    /// ZSET of the campaigns that workers maintain, score = since when, in ms: the time of the launch or
    /// cancellation, or the scheduled start.
    active() => "active";
    /// ZSET of ended campaigns whose recipients are still stored, score = end time in ms.
    ended() => "ended";
    /// ZSET of ended campaigns whose message ids may still be in the lists of their parts instead of the index, score
    /// = how often each was added.
    unindexed() => "unindexed";
    /// STRING: the campaign that was created with this `external_id`.
    external(external_id: &str) => "external:{external_id}";
    /// COUNTER: rises whenever a line may have something new to do. Workers watch it instead of polling every line.
    pulse() => "pulse";
    /// ZSET of live workers, score = time in ms at which each counts as dead unless it renews.
    workers() => "workers";
    /// HASH: worker → when it was last alive, in ms.
    beats() => "beats";
    /// HASH: worker id of a running process → its name, version, roles, start and expiry, JSON.
    processes() => "processes";
    /// HASH: worker → ids of the lines that it lists, JSON.
    line_lists() => "line_lists";
    /// STRING: counter that rises when a worker replaces its list of lines.
    line_lists_version() => "line_lists_version";
    /// HASH: line that a worker lists, or listed within `id_retention` → its WABA and an expiry time, JSON.
    known_lines() => "known_lines";
    /// HASH of holds: scope (`line:3001`, `template:2001/name/language`, …) → JSON with code, reason and end.
    holds() => "holds";
    /// HASH of the holds on scopes that release 0.1.0 does not know, in the same form.
    later_holds() => "later_holds";
    /// HASH: scope → when a hold on it was last lifted, in ms.
    lifted() => "lifted";
    /// HASH of the pauses of the installation and of businesses: `all` or `business:ID` → start in ms; `version`, which
    /// rises with each pause; `worker:NAME` → the newest version that the worker has confirmed.
    pauses() => "pauses";
    /// ZSET of failed statuses and replies, JSON, that carry no token of ours and whose message is not found yet, score
    /// = time in ms of the next search.
    parked() => "parked";
    /// STRING with an expiry, written so that `WAIT` and `WAITAOF` cover everything written before it.
    wait_key(number: u32) => "fence:{number}";
    /// STRING: the incarnation of Redis in which the installation was first used.
    first_incarnation() => "born";
    /// ZSET of versions of the data: the oldest release that reads a version → the version. The highest one counts.
    data_version() => "data_version";
    /// HASH: worker → the newest version of the data that it reads.
    readable_versions() => "readable_versions";
    /// STRING of 16 random bytes that sign tokens.
    token_key() => "token_key";
    /// SET of the WABAs whose templates changed at Meta since the last sync.
    templates_changed() => "templates_changed";
    /// STRING with an expiry: a worker has asked, or is asking, Meta for the limits of the lines of the WABA.
    allowances_read(waba: &WabaId) => "allowances_read:{waba}";
    /// HASH: line → the number of messages that people have sent to it. Expires.
    inbound_counts() => "inbound_counts";
    /// HASH of the people who are being erased: digits of the number → start of the erasure, in ms.
    forgetting() => "forgetting";
    /// HASH of the templates of a WABA as Meta returned them: `name/language` → JSON; field `synced_at`.
    templates(waba: &WabaId) => "templates:{waba}";
    /// HASH: business → its messaging limit, JSON.
    messaging_limits() => "messaging_limits";
    /// HASH: business → the lines that it has at Meta, and when Meta was asked, JSON.
    meta_lines() => "meta_lines";
    /// HASH: WABA → until when its marketing goes through the Marketing Messages API, in ms.
    rerouted() => "rerouted";
    /// HASH of the states of lines, holds and templates that the feed has published, and whether the feed has begun.
    told() => "told";
    /// HASH: the position of a subscriber in the feed, whether it fails or is disabled, the worker that delivers to it,
    /// and a version that changes when an operator changes these or another worker begins to deliver.
    subscriber(subscriber: &SubscriberId) => "subscriber:{subscriber}";
    /// STRING with an expiry: the worker that has the duty, and its epoch.
    duty_lease(duty: &str) => "{{d:{duty}}}:lease";
    /// COUNTER: the epoch of the duty's newest lease.
    duty_epoch(duty: &str) => "{{d:{duty}}}:epoch";

    /// HASH: definition, state, version, lines of its parts, size of its index of phone numbers.
    campaign(campaign: CampaignId) => "{{{campaign}}}";
    /// HASH, one bucket of the index of phone numbers: 7 bytes of a mixed phone number → part × 65,536 + row.
    phone_bucket(campaign: CampaignId, bucket: u32) => "{{{campaign}}}:n:{bucket}";
    /// HASH: the progress of an upload, and its result.
    upload(campaign: CampaignId, upload: &str) => "{{{campaign}}}:upload:{upload}";
    /// LIST of the first rejections of an upload, JSON.
    rejections(campaign: CampaignId, upload: &str) => "{{{campaign}}}:rejections:{upload}";
    /// SET of the ids of uploads whose records may still exist. Expires.
    uploads(campaign: CampaignId) => "{{{campaign}}}:uploads";
    /// HASH of admitted rows that are not yet recipients: `part:first row` → a byte for each row.
    outbox(campaign: CampaignId) => "{{{campaign}}}:outbox";

    /// HASH: counters by state and by code, gate (whether rows may be claimed), epoch of the owner, first row that was
    /// never claimed, last claim.
    part(part: PartId) => "{{{part}}}";
    /// STRING: one state byte for each row.
    states(part: PartId) => "{{{part}}}:s";
    /// HASH: first row → chunk of recipients, compressed.
    chunks(part: PartId) => "{{{part}}}:c";
    /// ZSET of rows that wait for their next attempt, score = time in ms.
    retry(part: PartId) => "{{{part}}}:r";
    /// ZSET of rows in doubt, score = deadline in ms.
    doubt(part: PartId) => "{{{part}}}:d";
    /// HASH: row → the error code behind its state.
    error_codes(part: PartId) => "{{{part}}}:w";
    /// LIST of changes, each entry a batch of 7-byte records: row, state byte, time in s.
    history(part: PartId) => "{{{part}}}:h";
    /// LIST of message ids, each entry a batch of 11-byte records: row, send, fingerprint. Expires.
    ids(part: PartId) => "{{{part}}}:i";
    /// HASH: block of 32 rows → their whole message ids. Expires.
    wamids(part: PartId) => "{{{part}}}:m";
    /// HASH: row → attempts that counted before the last claim. Only for retried rows.
    tries(part: PartId) => "{{{part}}}:t";
    /// HASH: row → number of its last claim. Only for rows that were claimed more than 14 times.
    sends(part: PartId) => "{{{part}}}:g";
    /// BITMAP of rows whose recipient replied.
    replied(part: PartId) => "{{{part}}}:a";
    /// BITMAP of accepted rows whose message Meta keeps back. Only in parts with such rows.
    held(part: PartId) => "{{{part}}}:q";
    /// STRING: for each row the byte of the reason for which it is skipped, else 0. Only in parts with skipped rows.
    skips(part: PartId) => "{{{part}}}:k";
    /// BITMAP of rows whose message Meta withheld once, and that are or were sent again. Only in parts with such rows.
    withheld(part: PartId) => "{{{part}}}:x";
    /// HASH: row that is sent again → the state and the error code that it had before.
    before(part: PartId) => "{{{part}}}:b";

    /// ZSET of the people who count towards the messaging limit of a business, 8 bytes each, score = time in ms at
    /// which they stop counting. Expires.
    people(business: &BusinessId) => "{{b:{business}}}:people";
    /// HASH: person → the last message to this person, if it is not known to be delivered. Expires.
    undelivered(business: &BusinessId) => "{{b:{business}}}:undelivered";
    /// ZSET of open service windows: 8 bytes of the person and the line, score = end in ms. Expires.
    windows(business: &BusinessId) => "{{b:{business}}}:windows";
    /// HASH: first 2 bytes of the hash of a person → the suppressed people whose hashes begin with these bytes.
    suppressed(business: &BusinessId) => "{{b:{business}}}:suppressed";
    /// STRING: the generation of the list, then the hashes of the people who were suppressed or withheld since it
    /// began, oldest first.
    suppressed_news(business: &BusinessId) => "{{b:{business}}}:suppressed:news";
    /// ZSET of the opt-outs that came by webhook, each as an 8-byte fingerprint, score = time in s at which it was
    /// stored. Expires.
    wishes(business: &BusinessId) => "{{b:{business}}}:wishes";
    /// ZSET of the people from whom Meta withheld marketing, 8 bytes each, score = time in ms at which they may get
    /// marketing again. Expires.
    withheld_people(business: &BusinessId) => "{{b:{business}}}:withheld";
    /// HASH: first 2 bytes of the hash of a person → the marketing messages that frequency caps count, to people whose
    /// hashes begin with these bytes. Expires.
    marketing(business: &BusinessId) => "{{b:{business}}}:marketing";

    /// STRING with an expiry: the worker that may send on the line, and its epoch.
    lease(line: &LineId) => "{{l:{line}}}:lease";
    /// COUNTER: the epoch of the line's newest lease.
    epoch(line: &LineId) => "{{l:{line}}}:epoch";
    /// STRING with an expiry: the people to whom the last owner of the line has just sent.
    last_sends(line: &LineId) => "{{l:{line}}}:sent";
    /// SET of the parts with open rows on the line.
    work(line: &LineId) => "{{l:{line}}}:work";
    /// HASH: the start of the line's warm-up in ms, the number of its last day, and how much of that day's share was
    /// taken.
    warm_up(line: &LineId) => "{{l:{line}}}:warm_up";
    /// HASH: the settings of operators (rate, paused) and what Meta allows (allowance).
    control(line: &LineId) => "{{l:{line}}}:control";
    /// STRING with an expiry: the owner's report on the line, JSON.
    report(line: &LineId) => "{{l:{line}}}:report";
    /// STREAM of the messages that people sent to the line: the contract with readers.
    inbound(line: &LineId) => "{{l:{line}}}:inbound";
    /// HASH of buckets of 8-byte fingerprints of the messages that were stored last, with their number and the time of
    /// the first. Expires.
    seen_inbound(line: &LineId) => "{{l:{line}}}:seen";
    /// HASH: the previous generation of these fingerprints. Expires.
    seen_inbound_before(line: &LineId) => "{{l:{line}}}:seen:before";
    /// HASH: `reader`, the epoch of the process that puts messages of chats; `owner`, the epoch of the line's lease by
    /// which they were claimed last, and the number of that `claim`.
    chat_fences(line: &LineId) => "{{l:{line}}}:chat:fences";
    /// HASH: message of a chat → state, number of its last send, attempts, and the claim of that send.
    chat_states(line: &LineId) => "{{l:{line}}}:chat:states";
    /// HASH: message of a chat that is not finished → its request, JSON.
    chat_requests(line: &LineId) => "{{l:{line}}}:chat:requests";
    /// ZSET of messages of chats that wait to be sent, score = due time in ms.
    chat_queue(line: &LineId) => "{{l:{line}}}:chat:queue";
    /// ZSET of messages of chats that are in flight or in doubt, score = deadline in ms.
    chat_sends(line: &LineId) => "{{l:{line}}}:chat:sends";
    /// STREAM of what became of messages of chats, for the reader of the line.
    chat_results(line: &LineId) => "{{l:{line}}}:chat:results";
    /// LIST of lines that have something new for a worker in one of its roles. Expires.
    doorbell(role: &str, worker: &str) => "doorbell:{role}:{worker}";
    /// HASH of the segments of the line's index of message ids: opening time of the segment → layout:ids:parts.
    /// Expires.
    segments(line: &LineId) => "{{l:{line}}}:ids";
    /// HASH, a segment: bucket → message ids of 11 bytes: fingerprint, part, row, send; `p` and an index → the part.
    /// Expires.
    segment(line: &LineId, opened: u64) => "{{l:{line}}}:ids:{opened}";
}

impl RedisKeys {
    /// Keys under `namespace`.
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.into() }
    }

    /// STREAM, field `event`: the events of one of `partitions` streams, the contract with readers.
    pub fn events(&self, partition: u16, partitions: u16) -> String {
        self.partitioned("events", partition, partitions)
    }

    /// ZSET of parts, campaigns and lines with changes that are not published in an event stream, score = time in ms of
    /// the first such change.
    pub fn changed(&self, partition: u16, partitions: u16) -> String {
        self.partitioned("changed", partition, partitions)
    }

    /// The key of one partition. With a single partition, the key has no number.
    fn partitioned(&self, name: &str, partition: u16, partitions: u16) -> String {
        if partitions == 1 {
            format!("{}:{name}", self.namespace)
        } else {
            format!("{}:{name}:{{{partition}}}", self.namespace)
        }
    }

    /// All keys of a part.
    pub fn all_of(&self, part: PartId) -> [String; 16] {
        [
            self.part(part),
            self.states(part),
            self.chunks(part),
            self.retry(part),
            self.doubt(part),
            self.error_codes(part),
            self.history(part),
            self.ids(part),
            self.wamids(part),
            self.tries(part),
            self.sends(part),
            self.replied(part),
            self.held(part),
            self.skips(part),
            self.withheld(part),
            self.before(part),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_part_share_one_slot() {
        let keys = RedisKeys::new("pregon");
        let part = PartId { campaign: "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id"), number: 7 };
        for key in keys.all_of(part) {
            assert!(key.contains("{01J9ZK3V5T8R7Q6P5N4M3K2J1H.7}"), "{key}");
        }
        assert_eq!(keys.jobs(), "pregon:jobs", "a contract with backends");
    }
}
