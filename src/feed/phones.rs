//! A cache of the phone numbers of recipients, for events. It holds whole chunks, because most chunks are needed for
//! several events of each recipient.

use std::collections::{BTreeMap, HashMap};

use crate::{
    domain::{PartId, Phone},
    redis::{Result, Store},
};

/// Maximum number of phone numbers in the cache: 16 MB.
const PHONES_MAX: usize = 2_000_000;

/// The cache.
#[derive(Default)]
pub(super) struct Phones {
    parts: HashMap<PartId, PartPhones>,
    /// The numbers in `parts`.
    len: usize,
}

#[derive(Default)]
struct PartPhones {
    /// The first rows of the part's chunks, in order.
    starts: Vec<u16>,
    /// The numbers of the chunks that were read, by first row.
    chunks: BTreeMap<u16, Box<[Option<Phone>]>>,
    /// Rises when recipients of the part are erased. The chunks were read when it had at least this value.
    erased: u64,
}

impl PartPhones {
    /// The number of a row, `None` in place of one that was removed; `None` if its chunk was not read.
    fn get(&self, row: u16) -> Option<Option<Phone>> {
        let (start, phones) = self.chunks.range(..=row).next_back()?;
        phones.get(usize::from(row - start)).copied()
    }

    /// The first row of the chunk that has `row`.
    fn start_of(&self, row: u16) -> Option<u16> {
        let behind = self.starts.partition_point(|&start| start <= row);
        self.starts[..behind].last().copied()
    }
}

impl Phones {
    /// Reads the numbers of `rows` of a part that are not in the cache. `erased` rises when recipients of the part are
    /// erased; then all numbers are read again.
    pub(super) async fn read(
        &mut self,
        store: &Store,
        part: PartId,
        erased: u64,
        rows: impl Iterator<Item = u16>,
    ) -> Result<()> {
        let of_part = self.parts.entry(part).or_default();
        if of_part.erased != erased {
            self.len -= of_part.chunks.values().map(|chunk| chunk.len()).sum::<usize>();
            *of_part = PartPhones { erased, ..PartPhones::default() };
        }
        let missing: Vec<u16> = rows.filter(|&row| of_part.get(row).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Chunks may have been added since the last read.
        of_part.starts = store.chunk_starts(part).await?;
        let mut starts: Vec<u16> = missing.into_iter().filter_map(|row| of_part.start_of(row)).collect();
        starts.sort_unstable();
        starts.dedup();
        starts.retain(|start| !of_part.chunks.contains_key(start));
        for (start, chunk) in starts.iter().zip(store.chunks(part, &starts).await?) {
            self.len += chunk.numbers().len();
            of_part.chunks.insert(*start, chunk.numbers().into());
        }
        if self.len > PHONES_MAX {
            self.parts.retain(|kept, _| *kept == part);
            self.len = self.parts.values().flat_map(|part| part.chunks.values()).map(|chunk| chunk.len()).sum();
        }
        Ok(())
    }

    /// The number of a row that was read; `None` if it was deleted.
    pub(super) fn get(&self, part: PartId, row: u16) -> Option<Phone> {
        self.parts.get(&part)?.get(row).flatten()
    }

    /// Empties the cache.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
