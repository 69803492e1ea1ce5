//! Meta's whole message ids in Redis: returns the id of a message by its row and send.
//!
//! Owns: HASH `{c.p}:m`, field = block of 32 rows, value = the ids of its rows, in the order in which they
//! were stored. An id is u8 row in its block, u8 send, and the id in its binary form. The scripts that receive an id
//! append it to its block, and extend the lifetime of the hash. The lookup from an id to its row is in
//! [`super::message_ids`], which keeps fingerprints only.
//!
//! If a process dies: an id is stored by the same script as its outcome or status, so either both are stored or
//! neither. An id may be stored twice, which changes nothing.

mod packed;

use std::collections::{BTreeMap, BTreeSet};

use deadpool_redis::redis::cmd;

use self::packed::Packed;
pub(super) use self::packed::write as write_packed;
use super::{Result, Store, StoreError};
use crate::domain::{ClaimedRow, PartId, State, Wamid};

/// Rows of a block. A script that appends to a block writes the whole block, some 600 bytes; smaller blocks would cost
/// more memory for each id.
pub(super) const BLOCK_ROWS: u16 = 32;

/// The length of a usual id in a block.
const ID_LEN: usize = 19;

/// Maximum number of blocks in one command: some 160 kB.
const BLOCKS_AT_ONCE: usize = 256;

/// The whole message ids of some rows of a part.
#[derive(Debug, Default)]
pub struct Wamids {
    blocks: BTreeMap<u16, Vec<u8>>,
}

impl Wamids {
    /// The id of a message, if it is stored.
    pub fn of(&self, ClaimedRow { row, send }: ClaimedRow) -> Option<Wamid> {
        self.newest(row, |stored| stored == send)
    }

    /// The id of the message of the row's last claim, if it is stored. `byte`: the state byte of the row.
    pub fn of_last_claim(&self, row: u16, byte: u8) -> Option<Wamid> {
        let send = State::send_of(byte);
        self.newest(row, |stored| stored.min(State::SEND_OVERFLOW) == send)
    }

    /// The last stored id of `row` with a send that `is_wanted`.
    fn newest(&self, row: u16, is_wanted: impl Fn(u8) -> bool) -> Option<Wamid> {
        let block = self.blocks.get(&(row / BLOCK_ROWS))?;
        let in_block = u16::to_le_bytes(row % BLOCK_ROWS)[0];
        let ids = StoredIds(block).filter(|stored| stored.row == in_block && is_wanted(stored.send));
        ids.last()?.id.text().map(|text| Wamid::from(text.as_str()))
    }
}

/// An id in a block.
struct StoredId<'a> {
    /// The row, counted in its block.
    row: u8,
    send: u8,
    id: Packed<'a>,
}

/// The ids of a block, up to the end or the first bytes that are not an id.
struct StoredIds<'a>(&'a [u8]);

impl<'a> Iterator for StoredIds<'a> {
    type Item = StoredId<'a>;

    fn next(&mut self) -> Option<StoredId<'a>> {
        let (&[row, send], mut rest) = self.0.split_first_chunk()?;
        let id = Packed::split_off(&mut rest)?;
        self.0 = rest;
        Some(StoredId { row, send, id })
    }
}

/// The ids of a block without those of `rows` of the part.
pub(super) fn without_rows(ids: &[u8], block: u16, rows: &[u16]) -> Vec<u8> {
    let is_removed = |row: u8| rows.contains(&(block * BLOCK_ROWS + u16::from(row)));
    let (mut all, mut kept) = (StoredIds(ids), Vec::with_capacity(ids.len()));
    loop {
        let before = all.0;
        let Some(id) = all.next() else {
            // Bytes that are not an id are kept, so that a reader reports them.
            kept.extend(before);
            return kept;
        };
        if !is_removed(id.row) {
            kept.extend(&before[..before.len() - all.0.len()]);
        }
    }
}

/// Ids to append, by block.
#[derive(Debug, Default)]
pub(super) struct NewWamids {
    /// The ids of all blocks.
    ids: Vec<u8>,
    /// Each block, and where its ids begin.
    blocks: Vec<(u16, usize)>,
}

impl NewWamids {
    /// The ids of messages in the order of their rows.
    pub(super) fn of(messages: &[(ClaimedRow, &Wamid)]) -> Self {
        let mut new = Self { ids: Vec::with_capacity(messages.len() * ID_LEN), blocks: Vec::new() };
        for &(ClaimedRow { row, send }, wamid) in messages {
            let (block, start) = (row / BLOCK_ROWS, new.ids.len());
            new.ids.extend([u16::to_le_bytes(row % BLOCK_ROWS)[0], send]);
            if !packed::write(wamid.as_str(), &mut new.ids) {
                new.ids.truncate(start);
            } else if new.blocks.last().is_none_or(|(last, _)| *last != block) {
                new.blocks.push((block, start));
            }
        }
        new
    }

    /// The blocks, and the ids to append to each.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let ends = self.blocks.iter().skip(1).map(|(_, start)| *start).chain([self.ids.len()]);
        self.blocks.iter().zip(ends).map(|(&(block, start), end)| (block, &self.ids[start..end]))
    }
}

impl Store {
    /// The whole ids of messages of a part, in the order of `messages`; `None` for one that is not stored, because Meta
    /// has not accepted the message, its id is older than `id_retention`, or release 0.1.0 stored the outcome.
    ///
    /// Reads some 600 bytes for each block of 32 rows that has one of `messages`; 256 blocks take one round trip.
    pub async fn wamids(&self, part: PartId, messages: &[ClaimedRow]) -> Result<Vec<Option<Wamid>>> {
        let wamids = self.wamids_of(part, messages.iter().map(|message| message.row)).await?;
        Ok(messages.iter().map(|message| wamids.of(*message)).collect())
    }

    /// The whole ids of all messages of `rows` of a part.
    pub async fn wamids_of(&self, part: PartId, rows: impl IntoIterator<Item = u16>) -> Result<Wamids> {
        let blocks: BTreeSet<u16> = rows.into_iter().map(|row| row / BLOCK_ROWS).collect();
        let blocks: Vec<u16> = blocks.into_iter().collect();
        let (key, mut wamids) = (self.keys.wamids(part), Wamids::default());
        for blocks in blocks.chunks(BLOCKS_AT_ONCE) {
            let stored: Vec<Option<Vec<u8>>> = self.query("HMGET wamids", cmd("HMGET").arg(&key).arg(blocks)).await?;
            for (&block, ids) in blocks.iter().zip(stored) {
                let Some(ids) = ids else { continue };
                let mut all = StoredIds(&ids);
                all.by_ref().for_each(drop);
                if !all.0.is_empty() {
                    let reason = format!("block {block} is not a list of message ids");
                    return Err(StoreError::Corrupt { key, reason });
                }
                wamids.blocks.insert(block, ids);
            }
        }
        Ok(wamids)
    }
}
