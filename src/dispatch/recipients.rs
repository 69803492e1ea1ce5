//! The recipients of claimed rows, read from Redis chunk by chunk.
//!
//! A line claims in order, so that the newest chunks are enough; only retries look further back.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use crate::{
    domain::PartId,
    redis::{Store, StoreError, chunk::Chunk},
};

/// Chunks kept for each line.
const CHUNKS_KEPT: usize = 2;

/// Directories of chunks kept for each line: campaigns take turns, and each of these has two bytes for a chunk.
const DIRECTORIES_KEPT: usize = 1_024;

/// A chunk, by its part and first row.
type Kept = ((PartId, u16), Rc<Chunk>);

/// The chunks that a line read last.
#[derive(Default)]
pub struct ChunkCache {
    directories: RefCell<HashMap<PartId, Rc<Vec<u16>>>>,
    chunks: RefCell<VecDeque<Kept>>,
}

impl ChunkCache {
    /// Reads what the first claim of a part most often needs, while that is on its way: the first of its chunks.
    pub async fn prepare(&self, store: &Store, part: PartId) {
        if self.directories.borrow().contains_key(&part) {
            return;
        }
        // What can't be read now is read when it is needed, and then the error is told.
        let _ = self.chunk(store, part, 0).await;
    }

    /// Where the recipients of `rows` of a part are, in their order: a chunk, and the place in it.
    pub async fn of(
        &self,
        store: &Store,
        part: PartId,
        rows: impl Iterator<Item = u16>,
    ) -> Result<Vec<(Rc<Chunk>, u16)>, StoreError> {
        let mut found: Vec<(Rc<Chunk>, u16)> = Vec::new();
        let mut last: Option<(u16, Rc<Chunk>)> = None;
        for row in rows {
            let chunk = match &last {
                Some((start, chunk)) if row >= *start && usize::from(row - start) < chunk.rows() => chunk.clone(),
                _ => {
                    let start = self.start(store, part, row).await?;
                    let chunk = self.chunk(store, part, start).await?;
                    last = Some((start, chunk.clone()));
                    chunk
                }
            };
            let start = last.as_ref().map_or(0, |(start, _)| *start);
            let place = row - start;
            if usize::from(place) >= chunk.rows() {
                return Err(StoreError::Corrupt { key: part.to_string(), reason: format!("row {row} is in no chunk") });
            }
            found.push((chunk, place));
        }
        Ok(found)
    }

    /// The first row of the chunk that holds `row`.
    async fn start(&self, store: &Store, part: PartId, row: u16) -> Result<u16, StoreError> {
        let known = self.directories.borrow().get(&part).cloned();
        if known.is_none() && self.kept(part, 0).is_some_and(|first| usize::from(row) < first.rows()) {
            return Ok(0);
        }
        let directory = match known {
            Some(directory) => directory,
            None => {
                let directory = Rc::new(store.chunk_starts(part).await?);
                let mut directories = self.directories.borrow_mut();
                if directories.len() >= DIRECTORIES_KEPT {
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

    async fn chunk(&self, store: &Store, part: PartId, start: u16) -> Result<Rc<Chunk>, StoreError> {
        if let Some(chunk) = self.kept(part, start) {
            return Ok(chunk);
        }
        let chunk = Rc::new(store.chunks(part, &[start]).await?.pop().expect("a chunk for each start"));
        let mut chunks = self.chunks.borrow_mut();
        if chunks.len() >= CHUNKS_KEPT {
            chunks.pop_front();
        }
        chunks.push_back(((part, start), chunk.clone()));
        Ok(chunk)
    }

    fn kept(&self, part: PartId, start: u16) -> Option<Rc<Chunk>> {
        self.chunks.borrow().iter().find(|(key, _)| *key == (part, start)).map(|(_, chunk)| chunk.clone())
    }
}
