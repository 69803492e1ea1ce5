//! Writes CSV: the report of a campaign, and the exports of suppressions and contacts.

use axum::{
    BoxError,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use csv_core::{Terminator, WriterBuilder};
use futures_util::{Stream, StreamExt as _, stream};

/// A CSV to be saved as `name`: a header row with `columns`, then the `pieces`.
pub(super) fn attachment<E: Into<BoxError> + Send + 'static>(
    name: &str,
    columns: &[impl AsRef<str>],
    pieces: impl Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
) -> Response {
    let mut head = Vec::new();
    write_row(&mut head, columns);
    let body = Body::from_stream(stream::iter([Ok(Bytes::from(head))]).chain(pieces));
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers =
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, body).into_response()
}

/// Appends a row in the form of RFC 4180, with quotes where a field needs them.
pub(super) fn write_row(out: &mut Vec<u8>, fields: &[impl AsRef<str>]) {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).build();
    // Large enough for a field that consists of quotes, each doubled, plus its enclosing quotes and delimiter. So every
    // write below completes in one call.
    let mut buffer = vec![0; 3 + 2 * fields.iter().map(|field| field.as_ref().len()).max().unwrap_or(0)];
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            let (_, written) = writer.delimiter(&mut buffer);
            out.extend(&buffer[..written]);
        }
        let (_, _, written) = writer.field(field.as_ref().as_bytes(), &mut buffer);
        out.extend(&buffer[..written]);
    }
    let (_, written) = writer.terminator(&mut buffer);
    out.extend(&buffer[..written]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_quoted_only_if_it_needs_quotes() {
        let mut out = Vec::new();
        write_row(&mut out, &["+5491155550001", "a, b", "\"\"\"", ""]);
        write_row(&mut out, &["", ""]);
        assert_eq!(String::from_utf8_lossy(&out), "+5491155550001,\"a, b\",\"\"\"\"\"\"\"\",\r\n,\r\n");
    }
}
