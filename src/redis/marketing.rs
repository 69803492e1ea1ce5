//! The marketing messages of a business that its frequency caps count.
//!
//! Owns: HASH `{b:business}:marketing`, for businesses with a cap. Its layout is documented in
//! `scripts/count_marketing.lua`. Size: 9 bytes a message and some for each field. A message is dropped when no cap
//! counts it any more.
//!
//! A message is counted just before it is sent, and uncounted if it was not sent or did not reach its recipient.
//!
//! If a process dies: the messages that it was about to send stay counted.
//! If Redis loses its last writes: the journal counts the messages again.

use siphasher::sip::SipHasher24;

use super::{Call, Result, Store, StoreError, message_ids::RowRef, script};
use crate::domain::{BusinessId, FrequencyCap, PersonHash, UnixMs, frequency_cap::hour_of};

/// The number of bits of a person's hash that select the field. A field is read and written as a whole, so fewer fields
/// would cost time. More fields would cost memory: each has an overhead of some 75 bytes.
const FIELD_BITS: u32 = 16;
/// Fields from which old messages are dropped in one call of the script.
const FIELDS_AT_ONCE: u16 = 64;
/// People in one call of the script that only reads.
const PEOPLE_AT_ONCE: usize = 500;

/// The frequency caps that apply to a message: that of its business and that of its campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrequencyCaps {
    first: FrequencyCap,
    second: Option<FrequencyCap>,
}

impl FrequencyCaps {
    /// The caps that are set; `None` if neither is.
    pub fn of(business: Option<FrequencyCap>, campaign: Option<FrequencyCap>) -> Option<Self> {
        match (business, campaign) {
            (None, None) => None,
            (Some(first), second) | (None, second @ Some(first)) => {
                Some(Self { first, second: second.filter(|second| *second != first) })
            }
        }
    }

    fn iter(self) -> impl Iterator<Item = FrequencyCap> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// How long a message is stored, in hours after the hour of its send.
    fn hours(self) -> u16 {
        self.iter().map(FrequencyCap::hours).max().unwrap_or_default()
    }
}

/// A message to a person, as it is counted. Another send of the same recipient is another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarketingMessage([u8; 9]);

impl MarketingMessage {
    /// The message `row` to a person.
    pub fn new(person: PersonHash, (part, claimed): RowRef) -> Self {
        let mut message = [0; 21];
        message[..16].copy_from_slice(&part.campaign.0.to_bytes());
        message[16..18].copy_from_slice(&part.number.to_le_bytes());
        message[18..20].copy_from_slice(&claimed.row.to_le_bytes());
        message[20] = claimed.send;
        let [a, b, c, ..] = SipHasher24::new().hash(&message).to_be_bytes();
        Self::tagged(person, [a, b, c])
    }

    fn tagged(PersonHash(person): PersonHash, [a, b, c]: [u8; 3]) -> Self {
        let [f1, f2] = ((person >> (u64::BITS - FIELD_BITS)) as u16).to_be_bytes();
        let [r1, r2, r3, r4] = ((person >> (u32::BITS - FIELD_BITS)) as u32).to_be_bytes();
        Self([f1, f2, r1, r2, r3, r4, a, b, c])
    }
}

impl Store {
    /// Counts messages that are about to leave at `now` towards `caps`, in order. Returns for each whether it was
    /// counted and may be sent.
    ///
    /// Shape: at least one message, at most a few hundred.
    /// Errors: some messages may have been counted. Send none of them.
    pub async fn count_marketing(
        &self,
        business: &BusinessId,
        caps: FrequencyCaps,
        messages: &[MarketingMessage],
        now: UnixMs,
    ) -> Result<Vec<bool>> {
        let incarnation = self.incarnations.newest();
        let call = self.count_call(business, caps.hours(), caps.iter(), pack(messages), now);
        let answer: Vec<u8> = self.call(call).await?;
        if answer.len() != messages.len() {
            return Err(StoreError::Refused { operation: "count_marketing", message: "unexpected answer".into() });
        }
        let may_be_sent: Vec<bool> = answer.into_iter().map(|may| may == 1).collect();
        let sent: Vec<MarketingMessage> =
            messages.iter().zip(&may_be_sent).filter_map(|(message, may)| may.then_some(*message)).collect();
        if !sent.is_empty() {
            // The replay has no caps: messages that were sent always count, even if replays of other processes have
            // reached a cap.
            let replayed = self.count_call(business, caps.hours(), [].into_iter(), pack(&sent), now);
            self.incarnations.record(incarnation, [replayed.into_journal_entry()])?;
        }
        Ok(may_be_sent)
    }

    /// Whether each person has reached one of `caps` at `now`, in the order of `people`.
    pub async fn capped(
        &self,
        business: &BusinessId,
        caps: FrequencyCaps,
        people: &[PersonHash],
        now: UnixMs,
    ) -> Result<Vec<bool>> {
        let mut capped = Vec::with_capacity(people.len());
        for people in people.chunks(PEOPLE_AT_ONCE) {
            let messages = people.iter().flat_map(|person| MarketingMessage::tagged(*person, [0; 3]).0).collect();
            let call = self.count_call(business, caps.hours(), caps.iter(), messages, now).arg(1);
            capped.extend(self.call::<Vec<u8>>(call).await?.into_iter().map(|may_be_sent| may_be_sent == 0));
        }
        Ok(capped)
    }

    fn count_call(
        &self,
        business: &BusinessId,
        keep: u16,
        caps: impl Iterator<Item = FrequencyCap>,
        messages: Vec<u8>,
        now: UnixMs,
    ) -> Call {
        let mut packed = Vec::new();
        for cap in caps {
            packed.push(cap.messages);
            packed.extend(cap.hours().to_le_bytes());
        }
        let call = Call::new(&script::COUNT_MARKETING, &[self.keys.marketing(business)]);
        call.arg(hour_of(now)).arg(keep).arg(packed).arg(messages).arg("")
    }

    /// Uncounts messages that were not sent or did not reach their recipient. A message that is not counted changes
    /// nothing.
    ///
    /// Shape: at least one message.
    pub async fn uncount_marketing(&self, business: &BusinessId, messages: &[MarketingMessage]) -> Result<()> {
        let call = Call::new(&script::UNCOUNT_MARKETING, &[self.keys.marketing(business)]).arg(pack(messages));
        self.call_journaled::<u64>(vec![call]).await?.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Drops the messages of a business that its cap does not count any more. Counting drops some of them too, but not
    /// in fields to which no message is added.
    pub async fn drop_old_marketing(&self, business: &BusinessId, cap: FrequencyCap, now: UnixMs) -> Result<()> {
        let fields: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_be_bytes).collect();
        for fields in fields.chunks(usize::from(FIELDS_AT_ONCE)) {
            let call = Call::new(&script::COUNT_MARKETING, &[self.keys.marketing(business)]);
            let call = call.arg(hour_of(now)).arg(cap.hours()).arg("").arg("").arg(fields.concat());
            self.call::<Vec<u8>>(call).await?;
        }
        Ok(())
    }
}

fn pack(messages: &[MarketingMessage]) -> Vec<u8> {
    messages.iter().flat_map(|message| message.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CampaignId, ClaimedRow, PartId};

    fn message(person: u64, row: u16, send: u8) -> MarketingMessage {
        let part = PartId { campaign: CampaignId(ulid::Ulid(7)), number: 3 };
        MarketingMessage::new(PersonHash(person), (part, ClaimedRow { row, send }))
    }

    #[test]
    fn a_message_is_packed_as_48_bits_of_its_person_and_a_tag_of_its_send() {
        let MarketingMessage([f1, f2, r1, r2, r3, r4, ..]) = message(0xffff_ffff_ffff_ffff, 0, 1);
        assert_eq!([f1, f2, r1, r2, r3, r4], [0xff; 6]);
        let MarketingMessage([f1, f2, r1, r2, r3, r4, ..]) = message(0x0001_0000_0001_0000, 0, 1);
        assert_eq!([f1, f2, r1, r2, r3, r4], [0, 1, 0, 0, 0, 1]);
        assert_eq!(message(1, 5, 1), message(1, 5, 1));
        for other in [message(1, 5, 2), message(1, 6, 1), message(1 << 40, 5, 1)] {
            assert_ne!(message(1, 5, 1), other);
        }
    }

    #[test]
    fn equal_caps_count_once_and_the_longer_one_decides_what_is_kept() {
        let [week, month] = [(2, 7), (5, 30)].map(|(messages, days)| FrequencyCap { messages, days });
        assert_eq!(FrequencyCaps::of(None, None), None);
        let caps = |business, campaign| {
            let caps = FrequencyCaps::of(business, campaign).expect("a cap");
            (caps.iter().collect::<Vec<_>>(), caps.hours())
        };
        assert_eq!(caps(Some(week), Some(week)), (vec![week], 169));
        assert_eq!(caps(None, Some(week)), (vec![week], 169));
        assert_eq!(caps(Some(month), Some(week)), (vec![month, week], 721));
    }
}
