//! Imports of suppressions: the rows of a list become entries, at constant memory, batch by batch.
//!
//! If the connection closes or the process dies: the entries of stored batches stay. Repeat the whole import: a row
//! that is already stored changes nothing.
//! Never: narrows an entry, or buffers more than two batches: one being stored and one being read.

use std::{fmt::Display, pin::pin};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future};

use super::{
    Format, Intake, IntakeError, UploadLayout,
    rows::{Columns, Row, RowReader},
    upload::{UploadId, rows_of},
};
use crate::{
    api_types::{Rejection, UploadResult},
    domain::{PersonHash, RawSuppression, Suppression, SuppressionDefaults, TokenKey},
    redis::uploads::REJECTIONS_MAX,
};

/// The number of entries at which a batch is full. The rows of one piece of the body can exceed it.
const BATCH_ROWS: usize = 2_048;

/// The result of an import.
#[derive(Debug, Default)]
pub struct Imported {
    /// The accepted and rejected rows.
    pub rows: UploadResult,
    /// Whether any entry is new or wider than before.
    pub changed: bool,
}

impl Intake {
    /// Suppresses the people of a list as it arrives. The result is durable, as far as
    /// [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it. An existing entry changes only from
    /// marketing to all messages.
    ///
    /// `upload_id` (1 to 128 visible ASCII characters) names the import for its caller. It has no other effect, because
    /// an import can always be repeated.
    ///
    /// Errors: `Interrupted` if the body ends early, and `Store`: repeat the import. `Upload` for a CSV with a bad
    /// header row: nothing was changed.
    pub async fn import_suppressions<E: Display>(
        &self,
        upload_id: Option<&str>,
        layout: UploadLayout,
        defaults: &SuppressionDefaults,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Imported, IntakeError> {
        upload_id.map(UploadId::of_caller).transpose()?;
        let intake = self.in_this_incarnation();
        let reader = match layout.format {
            Format::Ndjson => RowReader::ndjson(),
            Format::Csv => RowReader::csv(Columns::of_suppressions(&layout.ignored)),
        };
        let key = intake.store.token_key().await?.get();
        let mut batches = Batches { rows: pin!(rows_of(reader, body)), key, defaults, result: UploadResult::default() };
        let mut changed = false;
        let mut batch = batches.next().await?;
        while !batch.is_empty() {
            let stored = intake.store.suppress(&defaults.business, &batch, true);
            let (next, counts) =
                future::try_join(batches.next(), async { stored.await.map_err(IntakeError::from) }).await?;
            changed |= counts.new + counts.changed > 0;
            batch = next;
        }
        let rows = batches.result;
        intake.store.make_durable().await?;
        Ok(Imported { rows, changed })
    }
}

/// Groups rows into batches of entries, and counts them.
struct Batches<'a, R> {
    rows: R,
    key: TokenKey,
    defaults: &'a SuppressionDefaults,
    result: UploadResult,
}

impl<R> Batches<'_, R>
where
    R: Stream<Item = Result<Vec<Row<RawSuppression>>, IntakeError>> + Unpin,
{
    /// Returns the next batch; an empty one at the end of the list.
    async fn next(&mut self) -> Result<Vec<(PersonHash, Suppression)>, IntakeError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_ROWS {
            let Some(rows) = self.rows.next().await else { break };
            rows?.into_iter().for_each(|row| self.add(row, &mut batch));
        }
        Ok(batch)
    }

    fn add(&mut self, row: Row<RawSuppression>, batch: &mut Vec<(PersonHash, Suppression)>) {
        match row.content.and_then(|raw| raw.fit(self.defaults)) {
            Ok((phone, entry)) => {
                self.result.accepted += 1;
                batch.push((PersonHash::of(phone.into(), &self.key), entry));
            }
            Err(reject) => {
                self.result.rejected_count += 1;
                if self.result.rejected.len() < REJECTIONS_MAX {
                    self.result.rejected.push(Rejection::of(row.number, row.line, &reject));
                }
            }
        }
    }
}
