//! The places of a business's messaging limit: the people who count towards it, and until when.
//!
//! Owns: ZSET `{b:business}:people`, HASH `{b:business}:undelivered`, ZSET `{b:business}:windows`. Only businesses with
//! a limit have them.
//!
//! A person counts from the moment before a message is sent until 24 hours after its delivery, or not at all if it
//! fails. A message that is not known to be delivered keeps its place for three days.
//!
//! If a process dies: the people to whom it was about to send count for three days.
//! If Redis loses its last writes: the journal counts the people again, perhaps for longer than before.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Call, Result, Store, StoreError, lines::ms, message_ids::RowRef, messaging_limits::KnownLimit, script};
use crate::domain::{BusinessId, LineId, Person, UnixMs};

/// How long a person counts after a delivery. The same time is the length of a service window.
const WINDOW: Duration = Duration::from_hours(24);
/// How long a person counts after a message that is not known to be delivered. Meta tries for 30 days, but nearly all
/// messages that are delivered at all are delivered within three. With 30 days, unreachable people would soon fill a
/// small limit.
const UNDELIVERED_FOR: Duration = Duration::from_hours(72);
/// Maximum number of open windows that are stored for a business. A person without one costs a place, as if the window
/// were closed.
const WINDOWS_MAX: isize = 200_000;
/// Maximum number of messages in one call of a script, so that no call keeps Redis busy for long.
const MESSAGES_MAX: usize = 1_000;

/// The places of a limited business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// How many people count.
    pub used: u64,
    /// How many more people may get a message.
    pub left: u64,
    /// When the next place becomes free; `None` if none is taken.
    pub frees_at: Option<UnixMs>,
    /// If no place is left: since when.
    pub spent_since: Option<UnixMs>,
}

/// The places of a business with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitedPlaces {
    /// The limit in people.
    pub limit: u32,
    /// The places.
    pub places: Places,
}

/// The fate of a message that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Meta delivered it at this time.
    Delivered(UnixMs),
    /// It was read at this time, so it was delivered by then.
    Read(UnixMs),
    /// It was not sent, or it will not be delivered.
    NotDelivered,
}

/// The fate of a message to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceNews {
    /// The person.
    pub person: Person,
    /// The message.
    pub message: RowRef,
    /// The fate of the message.
    pub fate: Fate,
}

impl Store {
    /// The places of a business with this limit, in people, at `now`.
    pub async fn places(&self, business: &BusinessId, limit: u32, now: UnixMs) -> Result<Places> {
        let answer = self.call(self.take_call(business, i64::from(limit), "", Vec::new(), now)).await?;
        Ok(read(answer)?.0)
    }

    /// The businesses in `known` that have a messaging limit, each with its places at `now`.
    pub async fn limited_businesses(
        &self,
        known: &HashMap<BusinessId, KnownLimit>,
        now: UnixMs,
    ) -> Result<HashMap<BusinessId, LimitedPlaces>> {
        let limited: Vec<(&BusinessId, u32)> =
            known.iter().filter_map(|(business, known)| Some((business, known.limit.people()?))).collect();
        let call =
            |(business, limit): &(&BusinessId, u32)| self.take_call(business, i64::from(*limit), "", Vec::new(), now);
        let answers = self.call_all(&limited.iter().map(call).collect::<Vec<_>>()).await?;
        let with_places = limited.into_iter().zip(answers);
        with_places
            .map(|((business, limit), answer)| {
                Ok((business.clone(), LimitedPlaces { limit, places: read(answer?)?.0 }))
            })
            .collect()
    }

    /// When the last of `messages` may leave, if sending starts at `from`, each message takes a place, and the business
    /// sends nothing else; `None` if that is unknown. `limited`: the places of the business at `now`. Each place can be
    /// taken again after a day.
    pub async fn places_free_at(
        &self,
        business: &BusinessId,
        limited: LimitedPlaces,
        messages: u64,
        now: UnixMs,
        from: UnixMs,
    ) -> Result<Option<UnixMs>> {
        let (Some(last), limit) = (messages.checked_sub(1), u64::from(limited.limit)) else { return Ok(Some(from)) };
        let (Some(days), Some(place)) = (last.checked_div(limit), last.checked_rem(limit)) else { return Ok(None) };
        let frees_at = match place.checked_sub(limited.places.left) {
            None => now,
            Some(nth) => {
                let mut range = cmd("ZRANGEBYSCORE");
                range.arg(self.keys.people(business)).arg(format!("({}", now.0)).arg("+inf").arg("WITHSCORES");
                range.arg("LIMIT").arg(nth).arg(1);
                let found: Vec<(Vec<u8>, f64)> = self.query("ZRANGEBYSCORE people", &range).await?;
                found.first().map_or(now, |&(_, at)| UnixMs(at as u64))
            }
        };
        Ok(u32::try_from(days).ok().map(|days| frees_at.max(from).after(WINDOW * days)))
    }

    /// Takes places for messages that are about to leave on a line. Returns the places that are left, and for each
    /// message whether it may be sent, because its recipient has a place now or needs none.
    ///
    /// Errors: places may have been taken. Send none of the messages.
    pub async fn take_places(
        &self,
        business: &BusinessId,
        limit: u32,
        line: &LineId,
        messages: &[(Person, RowRef)],
        now: UnixMs,
    ) -> Result<(Places, Vec<bool>)> {
        let incarnation = self.incarnations.newest();
        let call = self.take_call(business, i64::from(limit), line.as_str(), pack(messages), now);
        let (places, may_be_sent) = read(self.call(call).await?)?;
        let sent = messages.iter().zip(&may_be_sent).filter_map(|(message, may)| may.then_some(*message));
        // The replay has no limit: messages that were sent always count, even if replays of other processes have taken
        // all places.
        let replayed = self.take_call(business, -1, line.as_str(), pack(&sent.collect::<Vec<_>>()), now);
        self.incarnations.record(incarnation, [replayed.into_journal_entry()])?;
        Ok((places, may_be_sent))
    }

    fn take_call(&self, business: &BusinessId, limit: i64, line: &str, messages: Vec<u8>, now: UnixMs) -> Call {
        let keys = [self.keys.people(business), self.keys.undelivered(business), self.keys.windows(business)];
        let call = Call::new(&script::TAKE_PLACES, &keys).arg(now.0).arg(limit).arg(ms(UNDELIVERED_FOR));
        call.arg(line).arg(messages)
    }

    /// Records what became of messages that a line of a business sent: delivered, read, or not delivered.
    pub async fn note_places(
        &self,
        business: &BusinessId,
        line: &LineId,
        news: &[PlaceNews],
        now: UnixMs,
    ) -> Result<()> {
        let keys = [self.keys.people(business), self.keys.undelivered(business), self.keys.windows(business)];
        let calls = news.chunks(MESSAGES_MAX).map(|news| {
            let mut packed = Vec::new();
            for PlaceNews { person, message, fate } in news {
                packed.extend(pack(&[(*person, *message)]));
                let (kind, at) = match fate {
                    Fate::Delivered(at) => (b'D', *at),
                    Fate::Read(at) => (b'R', *at),
                    Fate::NotDelivered => (b'F', now),
                };
                packed.push(kind);
                packed.extend((at.0 as f64).to_le_bytes());
            }
            Call::new(&script::NOTE_PLACES, &keys).arg(now.0).arg(ms(WINDOW)).arg(line.as_str()).arg(packed)
        });
        let noted = self.call_journaled::<()>(calls.collect()).await?;
        noted.into_iter().collect()
    }

    /// Erases a person from the places of a business with these lines. The place stays taken, by an anonymous entry,
    /// until the same time, because Meta still counts the person. Returns whether the person was found.
    pub(super) async fn forget_places(&self, business: &BusinessId, lines: &[LineId], person: Person) -> Result<bool> {
        /// The digits of a person are below 10^15, so no person has this bit.
        const NOBODY: u64 = 1 << 63;
        let keys = [self.keys.people(business), self.keys.undelivered(business), self.keys.windows(business)];
        let nobody = rand::random::<u64>() | NOBODY;
        let call = Call::new(&script::ERASE_PLACES, &keys).arg(person.digits().to_le_bytes().to_vec());
        let call = call.arg(nobody.to_le_bytes().to_vec());
        self.call(lines.iter().fold(call, |call, line| call.arg(line.as_str()))).await
    }

    /// Records that people wrote to a line of a business, and when: messages to them take no place for the next 24
    /// hours.
    pub async fn open_windows(
        &self,
        business: &BusinessId,
        line: &LineId,
        people: &[(Person, UnixMs)],
        now: UnixMs,
    ) -> Result<()> {
        let key = self.keys.windows(business);
        let mut add = cmd("ZADD");
        add.arg(&key).arg("GT");
        for (person, at) in people {
            let member = [&person.digits().to_le_bytes(), line.as_str().as_bytes()].concat();
            add.arg(at.after(WINDOW).0).arg(member);
        }
        let mut pipeline = Pipeline::new();
        pipeline.add_command(add);
        pipeline.cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now.0);
        pipeline.cmd("ZREMRANGEBYRANK").arg(&key).arg(0).arg(-WINDOWS_MAX - 1);
        pipeline.cmd("PEXPIRE").arg(&key).arg(ms(WINDOW));
        self.query_all::<u64>("ZADD windows", &pipeline).await.map(drop)
    }
}

/// Messages with their recipients, as the scripts read them.
fn pack(messages: &[(Person, RowRef)]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (person, (part, claimed)) in messages {
        packed.extend(person.digits().to_le_bytes());
        packed.extend(part.campaign.0.to_bytes());
        packed.extend(part.number.to_le_bytes());
        packed.extend(claimed.row.to_le_bytes());
        packed.push(claimed.send);
    }
    packed
}

fn read(answer: Vec<i64>) -> Result<(Places, Vec<bool>)> {
    let unexpected = || StoreError::Refused { operation: "take_places", message: "unexpected answer".into() };
    let ([used, left, frees_at, spent_since], may_be_sent) = answer.split_first_chunk().ok_or_else(unexpected)?;
    let used = u64::try_from(*used).map_err(|_| unexpected())?;
    let left = u64::try_from(*left).unwrap_or(u64::MAX);
    let time = |ms: i64| u64::try_from(ms).ok().map(UnixMs);
    let (frees_at, spent_since) = (time(*frees_at), time(*spent_since));
    Ok((Places { used, left, frees_at, spent_since }, may_be_sent.iter().map(|may| *may == 1).collect()))
}
