//! Reads multipart forms.

use bytes::Bytes;

/// One field of a form.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) content_type: Option<String>,
    pub(super) bytes: Bytes,
}

/// The boundary in the content type of a form.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    let is_form = kind.trim().eq_ignore_ascii_case("multipart/form-data");
    let boundary = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"')).filter(|boundary| is_form && !boundary.is_empty())
}

/// The fields of a form. What has no name is left out.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Vec<Part> {
    let delimiter = format!("--{boundary}");
    let starts: Vec<usize> = memchr::memmem::find_iter(body, &delimiter).collect();
    let between = starts.windows(2).map(|pair| body.slice(pair[0] + delimiter.len()..pair[1]));
    between.filter_map(|part| read_part(&part)).collect()
}

/// A field between two delimiters: a line break, headers, an empty line, the value and a line break.
fn read_part(part: &Bytes) -> Option<Part> {
    let end = memchr::memmem::find(part, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&part[..end]).ok()?;
    let header = |name: &str| {
        let found =
            head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.trim())
    };
    let disposition = header("content-disposition")?;
    let name = disposition.split(';').find_map(|parameter| parameter.trim().strip_prefix("name="))?;
    // The line break at the end belongs to the delimiter.
    let value_end = part.len() - if part.ends_with(b"\r\n") { 2 } else { 0 };
    Some(Part {
        name: name.trim_matches('"').to_owned(),
        content_type: header("content-type").map(str::to_owned),
        bytes: part.slice(end + 4..value_end.max(end + 4)),
    })
}
