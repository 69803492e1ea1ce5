//! A position in the event feed, from which a reader continues.
//!
//! Written as the id of the event read last, such as `1795984075312-17`. If the feed has several partitions, the
//! position has an id for each, in their order, separated by commas. `0` in place of an id means the start of what is
//! kept of a partition. A position of only `0` means that start in every partition.

use std::fmt;

use super::feed::{FeedLimits, skips_numbers};
use crate::domain::{EntryId, ids::BadEntryId};

/// The start of what is kept of a partition.
const OLDEST: &str = "0";

/// What a reader has read of each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Vec<Option<EntryId>>);

/// The text is not a position in this feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPosition {
    /// It is malformed.
    #[error("it is the `id` of an event in the feed, or 0 for the oldest event that is kept")]
    Malformed,
    /// It belongs to a feed with another number of partitions.
    #[error(
        "it is of a feed with {given} partitions, and feed.partitions is {partitions} now; 0 begins with the oldest \
         event that is kept"
    )]
    Partitions {
        /// The number of partitions in the position.
        given: usize,
        /// The number of partitions of the feed.
        partitions: usize,
    },
}

impl From<BadEntryId> for BadPosition {
    fn from(_: BadEntryId) -> Self {
        Self::Malformed
    }
}

impl Position {
    /// The position behind the events `newest`, one for each partition.
    pub fn behind(newest: Vec<EntryId>) -> Self {
        Self(newest.into_iter().map(Some).collect())
    }

    /// The position before the oldest event that is kept.
    pub fn oldest(feed: FeedLimits) -> Self {
        Self(vec![None; usize::from(feed.partitions.get())])
    }

    /// Parses a position in `feed`.
    pub fn parse(text: &str, feed: FeedLimits) -> Result<Self, BadPosition> {
        let partitions = usize::from(feed.partitions.get());
        if text == OLDEST {
            return Ok(Self::oldest(feed));
        }
        let id = |id: &str| if id == OLDEST { Ok(None) } else { id.parse().map(Some) };
        let read = text.split(',').map(id).collect::<Result<Vec<_>, _>>()?;
        if read.len() != partitions {
            return Err(BadPosition::Partitions { given: read.len(), partitions });
        }
        Ok(Self(read))
    }

    /// The earlier of two positions in the same feed, for each partition.
    pub fn earlier(self, other: Self) -> Self {
        Self(self.0.into_iter().zip(other.0).map(|(one, other)| one.min(other)).collect())
    }

    /// The event of a partition that was read last; the lowest id if none was.
    pub fn of(&self, partition: u16) -> EntryId {
        self.0[usize::from(partition)].unwrap_or_default()
    }

    /// Moves the position in a partition behind the event `read`.
    pub fn advance(&mut self, partition: u16, read: EntryId) {
        self.0[usize::from(partition)] = Some(read);
    }

    /// Whether events were removed between the position and `next`, the event that follows it in a partition.
    pub fn misses_events_before(&self, partition: u16, next: EntryId) -> bool {
        // A reader of a partition that had no event yet, at 0-0, expects the first one.
        self.0[usize::from(partition)].is_some_and(|read| skips_numbers(read, next))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (partition, read) in self.0.iter().enumerate() {
            if partition > 0 {
                f.write_str(",")?;
            }
            match read {
                Some(id) => id.fmt(f)?,
                None => f.write_str(OLDEST)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU16, time::Duration};

    use super::*;

    fn feed(partitions: u16) -> FeedLimits {
        let partitions = NonZeroU16::new(partitions).expect("not 0");
        FeedLimits { partitions, retention: Duration::from_secs(60), length_max: 1_000 }
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        for (text, partitions) in [("1795984075312-17", 1), ("0-0", 1), ("5-1,0,7-3", 3)] {
            assert_eq!(Position::parse(text, feed(partitions)).map(|position| position.to_string()), Ok(text.into()));
        }
        assert_eq!(Position::parse("0", feed(3)).expect("good").to_string(), "0,0,0");
    }

    #[test]
    fn a_position_of_another_feed_is_refused() {
        let parse = |text, partitions| Position::parse(text, feed(partitions));
        assert_eq!(parse("5-1", 3), Err(BadPosition::Partitions { given: 1, partitions: 3 }));
        assert_eq!(parse("5-1,5-2", 1), Err(BadPosition::Partitions { given: 2, partitions: 1 }));
        for bad in ["", "5", "5-", "-1", "5-1,", "5-1-2", "newest", "1;5-1"] {
            assert_eq!(parse(bad, 1), Err(BadPosition::Malformed), "{bad}");
        }
    }

    #[test]
    fn the_earlier_of_two_positions_is_taken_in_each_partition() {
        let parse = |text| Position::parse(text, feed(3)).expect("good");
        assert_eq!(parse("5-1,0,7-4").earlier(parse("4-1,6-2,7-3")).to_string(), "4-1,0,7-3");
    }

    #[test]
    fn a_gap_is_found_by_the_numbers_of_events() {
        let next = |number| EntryId { ms: 9, number };
        let misses = |text, number| Position::parse(text, feed(1)).expect("good").misses_events_before(0, next(number));
        assert!(misses("5-1", 3) && misses("0-0", 2));
        assert!(!misses("5-1", 2) && !misses("0-0", 1), "the next event");
        assert!(!misses("0", 9), "a reader of the oldest event expects no other");
        assert!(!misses("5-7", 4), "Redis lost its last writes, and the events are told again");
    }
}
