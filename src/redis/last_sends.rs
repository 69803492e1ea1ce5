//! The people to whom a line has just sent, for its next owner.
//!
//! Owns: STRING `{l:line}:sent`: when it was written (u64, ms), and for each send the digits of the person (u64) and
//! its age at that time (u32, ms). It expires after the pair spacing.
//!
//! If the owner dies: there is no list. By the end of its lease the usual spacing has passed.

use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::{Result, Store, StoreError, lines::ms};
use crate::domain::{LineId, Person, Phone, UnixMs};

/// The last sends of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSends {
    /// The people, each with the age of the message at `at`.
    pub sends: Vec<(Person, Duration)>,
    /// When the list was made.
    pub at: UnixMs,
}

impl LastSends {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.at.0.to_le_bytes().to_vec();
        for (to, age) in &self.sends {
            bytes.extend(to.digits().to_le_bytes());
            bytes.extend(u32::try_from(age.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (at, sends) = bytes.split_first_chunk()?;
        let (sends, rest) = sends.as_chunks::<12>();
        let send = |send: &[u8; 12]| {
            let (digits, age) = send.split_first_chunk()?;
            let age = Duration::from_millis(u32::from_le_bytes(age.try_into().ok()?).into());
            Some((Phone::from_digits(u64::from_le_bytes(*digits))?.into(), age))
        };
        let sends: Option<Vec<_>> = sends.iter().map(send).collect();
        Some(Self { sends: sends.filter(|_| rest.is_empty())?, at: UnixMs(u64::from_le_bytes(*at)) })
    }
}

impl Store {
    /// Stores the last sends of a line for `lifetime`.
    pub async fn put_last_sends(&self, line: &LineId, sends: &LastSends, lifetime: Duration) -> Result<()> {
        let mut set = cmd("SET");
        set.arg(self.keys.last_sends(line)).arg(sends.to_bytes()).arg("PX").arg(ms(lifetime).max(1));
        self.query("SET last_sends", &set).await
    }

    /// The last sends of a line, if its last owner has stored them and they have not expired.
    pub async fn last_sends(&self, line: &LineId) -> Result<Option<LastSends>> {
        let key = self.keys.last_sends(line);
        let stored: Option<Vec<u8>> = self.query("GET last_sends", cmd("GET").arg(&key)).await?;
        let read = |bytes: Vec<u8>| {
            let corrupt = || StoreError::Corrupt { key: key.clone(), reason: "it is not a list of sends".to_owned() };
            LastSends::read(&bytes).ok_or_else(corrupt)
        };
        stored.map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sends_are_given_back_unchanged() {
        let person = |n: u64| Phone::from_digits(5_491_155_550_000 + n).expect("a number").into();
        let sends = vec![(person(1), Duration::ZERO), (person(2), Duration::from_millis(5_999))];
        for sends in [LastSends { sends, at: UnixMs(1_795_984_075_312) }, LastSends { sends: vec![], at: UnixMs(0) }] {
            let bytes = sends.to_bytes();
            assert_eq!(LastSends::read(&bytes), Some(sends));
            assert_eq!(LastSends::read(&bytes[..bytes.len() - 1]), None);
        }
    }
}
