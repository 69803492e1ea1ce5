//! Imports of contacts: the rows of a list become checked contacts, at constant memory, batch by batch.

use std::fmt::Display;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};

use super::{
    Format, IntakeError, UploadLayout,
    rows::{Columns, Row, RowReader},
    upload::{UploadId, rows_of},
};
use crate::{
    api_types::{Rejection, UploadResult},
    domain::contact_row::{ContactSchema, ImportedContact, RawContact},
    redis::uploads::REJECTIONS_MAX,
};

/// The number of contacts at which a batch is full. The rows of one piece of the body can exceed it.
const BATCH_ROWS: usize = 2_000;

/// The batches of an import.
pub struct ContactBatches<'a> {
    rows: BoxStream<'a, Result<Vec<Row<RawContact>>, IntakeError>>,
    schema: &'a ContactSchema,
    /// The accepted and rejected rows so far.
    pub result: UploadResult,
}

/// The contacts of a body as it arrives. `renamed`: the columns of a CSV that have another name there, as that name and
/// their own. `upload_id` (1 to 128 visible ASCII characters) names the import for its caller.
///
/// Errors: the id is malformed.
pub fn contact_batches<'a, E: Display + 'a>(
    upload_id: Option<&str>,
    layout: &UploadLayout,
    renamed: &[(String, String)],
    schema: &'a ContactSchema,
    body: impl Stream<Item = Result<Bytes, E>> + Unpin + Send + 'a,
) -> Result<ContactBatches<'a>, IntakeError> {
    upload_id.map(UploadId::of_caller).transpose()?;
    let reader = match layout.format {
        Format::Ndjson => RowReader::ndjson(),
        Format::Csv => {
            let keys = schema.properties.keys().map(String::as_str);
            RowReader::csv(Columns::of_contacts(keys, &layout.ignored, renamed))
        }
    };
    Ok(ContactBatches { rows: rows_of(reader, body).boxed(), schema, result: UploadResult::default() })
}

impl ContactBatches<'_> {
    /// Returns the next batch; an empty one at the end of the list.
    ///
    /// Errors: `Interrupted` if the body ends early: repeat the import. `Upload` for a CSV with a bad header row.
    pub async fn next(&mut self) -> Result<Vec<ImportedContact>, IntakeError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_ROWS {
            let Some(rows) = self.rows.next().await else { break };
            rows?.into_iter().for_each(|row| self.add(row, &mut batch));
        }
        Ok(batch)
    }

    fn add(&mut self, row: Row<RawContact>, batch: &mut Vec<ImportedContact>) {
        match row.content.and_then(|raw| raw.fit(self.schema)) {
            Ok(contact) => {
                self.result.accepted += 1;
                batch.push(contact);
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
