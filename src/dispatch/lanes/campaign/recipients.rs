//! A cache of recipients, read from Redis in chunks.
//!
//! A line claims rows in order, so a few recent chunks are enough. Only retries read older ones.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use crate::{
    domain::PartId,
    redis::{Store, StoreError, chunk::Chunk},
};

/// Maximum number of chunks in the cache of a line.
const CHUNKS_MAX: usize = 2;

/// Maximum number of chunk directories in the cache of a line, because the campaigns of a line take turns. A directory
/// has the first rows of the chunks of a part: two bytes per chunk.
const DIRECTORIES_MAX: usize = 1_024;

/// A chunk of a part.
struct CachedChunk {
    part: PartId,
    /// Its first row.
    start: u16,
    /// The part had at least this value of `Claim::Rows::erased` when the chunk was read.
    erased: u64,
    chunk: Rc<Chunk>,
}

/// The chunks that a line read last, and where the chunks of its parts start.
#[derive(Default)]
pub struct ChunkCache {
    directories: RefCell<HashMap<PartId, Rc<Vec<u16>>>>,
    chunks: RefCell<VecDeque<CachedChunk>>,
}

impl ChunkCache {
    /// Reads the first chunk of a part, which its first claim most often needs. Runs while that claim is on its way.
    pub async fn prefetch(&self, store: &Store, part: PartId) {
        if self.directories.borrow().contains_key(&part) {
            return;
        }
        // After an error the chunk is read again when it is needed, and that read reports the error.
        let _ = self.chunk(store, part, 0, 0).await;
    }

    /// Finds the recipients of `rows` of a part. Returns for each row, in the same order, its chunk and its index in
    /// the chunk.
    ///
    /// `erased`: as the claim of the rows returned it. A chunk that was read before recipients of the part were last
    /// erased is read again.
    pub async fn locate(
        &self,
        store: &Store,
        part: PartId,
        erased: u64,
        rows: impl Iterator<Item = u16>,
    ) -> Result<Vec<(Rc<Chunk>, u16)>, StoreError> {
        self.chunks.borrow_mut().retain(|cached| cached.part != part || cached.erased >= erased);
        let mut found: Vec<(Rc<Chunk>, u16)> = Vec::new();
        let mut last: Option<(u16, Rc<Chunk>)> = None;
        for row in rows {
            let chunk = match &last {
                Some((start, chunk)) if row >= *start && usize::from(row - start) < chunk.rows() => chunk.clone(),
                _ => {
                    let start = self.start(store, part, row).await?;
                    let chunk = self.chunk(store, part, start, erased).await?;
                    last = Some((start, chunk.clone()));
                    chunk
                }
            };
            let start = last.as_ref().map_or(0, |(start, _)| *start);
            let offset = row - start;
            if usize::from(offset) >= chunk.rows() {
                return Err(StoreError::Corrupt { key: part.to_string(), reason: format!("row {row} is in no chunk") });
            }
            found.push((chunk, offset));
        }
        Ok(found)
    }

    /// The first row of the chunk that contains `row`.
    async fn start(&self, store: &Store, part: PartId, row: u16) -> Result<u16, StoreError> {
        let cached = self.directories.borrow().get(&part).cloned();
        if cached.is_none() && self.cached_chunk(part, 0).is_some_and(|first| usize::from(row) < first.rows()) {
            return Ok(0);
        }
        let directory = match cached {
            Some(directory) => directory,
            None => {
                let directory = Rc::new(store.chunk_starts(part).await?);
                let mut directories = self.directories.borrow_mut();
                if directories.len() >= DIRECTORIES_MAX {
                    directories.clear();
                }
                directories.insert(part, directory.clone());
                directory
            }
        };
        let behind = directory.partition_point(|start| *start <= row);
        behind
            .checked_sub(1)
            .map(|index| directory[index])
            .ok_or_else(|| StoreError::Corrupt { key: part.to_string(), reason: format!("row {row} is in no chunk") })
    }

    async fn chunk(&self, store: &Store, part: PartId, start: u16, erased: u64) -> Result<Rc<Chunk>, StoreError> {
        if let Some(chunk) = self.cached_chunk(part, start) {
            return Ok(chunk);
        }
        let chunk = Rc::new(store.chunks(part, &[start]).await?.pop().expect("a chunk for each start"));
        let mut chunks = self.chunks.borrow_mut();
        if chunks.len() >= CHUNKS_MAX {
            chunks.pop_front();
        }
        chunks.push_back(CachedChunk { part, start, erased, chunk: chunk.clone() });
        Ok(chunk)
    }

    fn cached_chunk(&self, part: PartId, start: u16) -> Option<Rc<Chunk>> {
        let chunks = self.chunks.borrow();
        let cached = chunks.iter().find(|cached| (cached.part, cached.start) == (part, start));
        cached.map(|cached| cached.chunk.clone())
    }
}
