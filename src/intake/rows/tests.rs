use proptest::prelude::*;

use super::*;
use crate::domain::recipient::{HeaderFields, RawHeader};

/// Every column that these tests use. Only `to` is required.
fn columns() -> Columns {
    let names = "to 1 2 first_name x header header.filename header.latitude header.longitude header.name \
        header.address button.0";
    let column = |name: &str| Column { name: name.to_owned(), is_required: name == "to" };
    Columns::new(names.split(' ').map(column).collect(), &[])
}

fn csv_reader() -> RowReader {
    RowReader::csv(columns())
}

/// Reads an upload that arrives in chunks of `chunk_len` bytes.
fn read_lines(mut reader: RowReader, upload: &[u8], chunk_len: usize) -> Result<Vec<Row>, UploadError> {
    let mut rows = Vec::new();
    for chunk in upload.chunks(chunk_len) {
        reader.push(chunk, &mut rows)?;
    }
    reader.finish(&mut rows)?;
    Ok(rows)
}

/// Like [`read_lines`], but clears the line numbers.
fn read(reader: RowReader, upload: &[u8], chunk_len: usize) -> Result<Vec<Row>, UploadError> {
    let mut rows = read_lines(reader, upload, chunk_len)?;
    rows.iter_mut().for_each(|row| row.line = None);
    Ok(rows)
}

fn ndjson(upload: &str) -> Vec<Row> {
    read(RowReader::ndjson(), upload.as_bytes(), usize::MAX).expect("NDJSON is never rejected as a whole")
}

fn csv(upload: &str) -> Result<Vec<Row>, UploadError> {
    read(csv_reader(), upload.as_bytes(), usize::MAX)
}

fn csv_rows(upload: &str) -> Vec<Row> {
    csv(upload).unwrap_or_else(|error| panic!("{upload:?}: {error}"))
}

fn raw(to: &str, params: &[(&str, &str)]) -> RawRecipient {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RawRecipient { to: to.to_owned(), params, ..RawRecipient::default() }
}

fn row(number: u64, recipient: RawRecipient) -> Row {
    Row { number, line: None, content: Ok(recipient) }
}

/// Why the row is rejected.
fn reason(row: &Row) -> String {
    match &row.content {
        Ok(raw) => panic!("row {} is accepted: {raw:?}", row.number),
        Err(reject) => reject.to_string(),
    }
}

#[test]
fn every_line_is_a_row_except_blank_ones() {
    let upload = "\u{feff}{\"to\":\"+1\",\"params\":{\"1\":\"a\"}}\r\n\n  \t\r\n{\"to\":\"+2\"}\n{\"to\":\"+3\"}";
    assert!(ndjson(upload) == [row(1, raw("+1", &[("1", "a")])), row(2, raw("+2", &[])), row(3, raw("+3", &[]))]);
    assert_eq!(ndjson(""), []);
    assert_eq!(ndjson("\n\r\n \n"), []);
}

#[test]
fn a_bad_line_is_rejected_and_the_next_is_read() {
    let rows = ndjson("{\"to\":\"+1\"}\n\nnonsense\n{\"to\":\"+2\",\"params\":{\"name\":null}}\n{\"to\":\"+3\"}\n");
    assert_eq!(
        rows.iter().map(|row| (row.number, row.content.is_ok())).collect::<Vec<_>>(),
        [(1, true), (2, false), (3, false), (4, true)]
    );
    assert_eq!(reason(&rows[1]), "the row cannot be read: it is not JSON (expected ident), at column 2 of the JSON");
    assert!(reason(&rows[2]).contains("a string or a number for `name` is expected"), "{}", reason(&rows[2]));
}

#[test]
fn an_endless_line_is_one_rejected_row_in_bounded_memory() {
    let mut reader = RowReader::ndjson();
    let mut rows = Vec::new();
    for _ in 0..1000 {
        reader.push(&[b'x'; 10_000], &mut rows).expect("the upload is not rejected");
    }
    let RowReader(Format::Ndjson(inner)) = &reader else { panic!("an NDJSON reader") };
    assert!(inner.buffer_capacity() <= 2 * ROW_BYTES_MAX, "{}", inner.buffer_capacity());
    reader.push(b"\n{\"to\":\"+2\"}", &mut rows).expect("the upload is not rejected");
    reader.finish(&mut rows).expect("the upload is not rejected");
    let reject = Reject::LineTooLong { limit: ROW_BYTES_MAX };
    assert_eq!(rows[0], Row { number: 1, line: Some(1), content: Err(reject) });
    assert!(rows[1..] == [Row { line: Some(2), ..row(2, raw("+2", &[])) }]);
}

#[test]
fn a_row_has_the_number_of_its_first_line() {
    let lines = |reader: fn() -> RowReader, upload: &str, expected: &[Option<u64>]| {
        for chunk_len in [1, 2, 3, 7, 64, usize::MAX] {
            let rows = read_lines(reader(), upload.as_bytes(), chunk_len).expect("rows");
            let lines: Vec<_> = rows.iter().map(|row| row.line).collect();
            assert_eq!(lines, expected, "{upload:?} in chunks of {chunk_len}");
        }
    };
    let some = |lines: &[u64]| lines.iter().copied().map(Some).collect::<Vec<_>>();
    lines(RowReader::ndjson, "{}\n\n \r\nx\r\n{}", &some(&[1, 4, 5]));
    let long = "x\n".repeat(ROW_BYTES_MAX);
    for end in ["\n", "\r\n"] {
        let upload = [
            "\u{feff}",                  // 1
            "sep=;",                     // 2
            "to;\"1\"",                  // 3
            "+1;a",                      // 4
            "",                          // 5
            "",                          // 6
            "+2;\"two\nlines\"",         // 7 and 8
            "+3;b",                      // 9
            ";",                         // 10: blank
            "+4;\"\nthree\n\";too many", // 11 to 13
            "+5;c",                      // 14
        ];
        lines(csv_reader, &upload.join(end), &some(&[4, 7, 9, 11, 14]));
        lines(csv_reader, &format!("to{end}+1{end}\"+2{end}+3{end}+4"), &some(&[2, 3]));
        let upload = format!("1,to{end}a,+1{end}{end}\"{long}\",+2{end}b,+3{end}");
        let rows = read_lines(csv_reader(), upload.as_bytes(), 10_000).expect("rows");
        let lines: Vec<_> = rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, some(&[2, 4, 5 + ROW_BYTES_MAX as u64]), "{end:?}");
    }
    lines(csv_reader, "to\r+1\r+2\r", &[None, None]);
}

#[test]
fn a_row_of_the_maximum_length_is_read_and_a_longer_one_is_not() {
    for (extra, accepted) in [(0, true), (1, false)] {
        let frame = "{\"to\":\"+1\",\"params\":{\"1\":\"\"}}".len();
        let value = "x".repeat(ROW_BYTES_MAX - frame + extra);
        let upload = format!("{{\"to\":\"+1\",\"params\":{{\"1\":\"{value}\"}}}}\n");
        for chunk_len in [usize::MAX, 1000] {
            let rows = read(RowReader::ndjson(), upload.as_bytes(), chunk_len).expect("rows");
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].content.is_ok(), accepted, "{extra} {chunk_len}");
        }
    }
}

#[test]
fn a_csv_names_its_columns_in_the_first_row() {
    let upload = "to,1,2,button.0\n+1,Maria,A-10,u/abc\n+2,\"Ana, la \"\"Ñata\"\"\",,\n\n+3,\"two\nlines\",B,x\n";
    let with_button =
        |raw: RawRecipient, value: &str| RawRecipient { buttons: vec![("0".to_owned(), value.to_owned())], ..raw };
    assert!(
        csv_rows(upload)
            == [
                row(1, with_button(raw("+1", &[("1", "Maria"), ("2", "A-10")]), "u/abc")),
                row(2, raw("+2", &[("1", "Ana, la \"Ñata\""), ("2", "")])),
                row(3, with_button(raw("+3", &[("1", "two\nlines"), ("2", "B")]), "x")),
            ]
    );
}

#[test]
fn a_column_zone_is_the_time_zone_unless_the_template_has_it_as_a_parameter() {
    let read = |is_parameter: bool| {
        let column = |name: &str| Column { name: name.to_owned(), is_required: name == "to" || is_parameter };
        let columns = Columns::new(vec![column("to"), column("zone")], &[]);
        read(RowReader::csv(columns), "to,Zone\n+1,America/Bogota\n+2,\n".as_bytes(), usize::MAX).expect("rows")
    };
    let zoned = RawRecipient { zone: Some("America/Bogota".into()), ..raw("+1", &[]) };
    assert!(read(false) == [row(1, zoned), row(2, raw("+2", &[]))]);
    let parameters = [row(1, raw("+1", &[("zone", "America/Bogota")])), row(2, raw("+2", &[("zone", "")]))];
    assert!(read(true) == parameters);
}

#[test]
fn a_csv_may_use_semicolons_and_a_byte_order_mark() {
    let expected = [row(1, raw("+1", &[("first_name", "a,b"), ("x", "c")]))];
    for upload in [
        "\u{feff}to;first_name;x\r\n+1;a,b;c\r\n",
        "\u{feff}\r\n\r\n\"to\";\"first_name\";\"x\"\r\n\"+1\";\"a,b\";\"c\"",
        "to,first_name,x\r+1,\"a,b\",c\r",
        " to ,first_name,x\n+1,\"a,b\",c",
    ] {
        assert!(csv_rows(upload) == expected, "{upload:?}: {:?}", csv_rows(upload));
    }
    assert_eq!(csv_rows("to,1"), [], "the header row is not a row");
}

#[test]
fn a_csv_header_is_a_text_or_has_fields_in_columns() {
    let headers = |upload: &str| -> Vec<Option<RawHeader>> {
        csv_rows(upload).into_iter().map(|row| row.content.expect("a row").header).collect()
    };
    let text = |text: &str| Some(RawHeader::Text(text.to_owned()));
    let fields = |fields: HeaderFields| Some(RawHeader::Fields(Box::new(fields)));
    assert_eq!(
        headers("to,header\n+1,Spring\n+2,\n+3,https://a.example/b"),
        [text("Spring"), None, text("https://a.example/b")]
    );
    let filename = Some("a.pdf".to_owned());
    assert_eq!(
        headers("to,header,header.filename\n+1,https://a.example/b,a.pdf\n+2,17,a.pdf\n+3,17,"),
        [
            fields(HeaderFields {
                link: Some("https://a.example/b".into()),
                filename: filename.clone(),
                ..HeaderFields::default()
            }),
            fields(HeaderFields { id: Some("17".into()), filename, ..HeaderFields::default() }),
            text("17"),
        ]
    );
    assert_eq!(
        headers("to,header.latitude,header.longitude,header.name,header.address\n+1,-34.6,-58.4,Obelisco,"),
        [fields(HeaderFields {
            latitude: Some("-34.6".into()),
            longitude: Some("-58.4".into()),
            name: Some("Obelisco".into()),
            ..HeaderFields::default()
        })]
    );
}

#[test]
fn a_csv_with_a_bad_header_row_is_rejected_as_a_whole() {
    let cases = [
        ("", "the csv is empty: its first row must name the columns"),
        ("\u{feff}\n\r\n", "the csv is empty: its first row must name the columns"),
        ("sep=;\n", "the csv is empty: its first row must name the columns"),
        (
            "phone,1\n+1,a\n",
            "the first row of the csv names no column `to` for the phone numbers, but `phone`, `1`: rename",
        ),
        (
            "+5491155550001,Ana\n",
            "the first row of the csv names no column `to` for the phone numbers, but `+…0001`, `Ana`",
        ),
        ("to,1,1\n", "the csv has the column `1` twice"),
        ("to,X,x\n", "the csv has the column `x` twice"),
        ("to,1,,2\n", "column 3 of the csv has no name"),
        ("to,button.first\n", "the csv has `button.first`, which the template does not use; it uses `to`, `1`"),
        ("PK\u{3}\u{4}\u{14}\n", "the file is an Excel workbook and not a csv: open it and save it as \"CSV UTF-8\""),
        ("t\0o\0,\0\n", "the header row of the csv is not UTF-8: save the file as \"CSV UTF-8\""),
    ];
    for (upload, sentence) in cases {
        let error = csv(upload).expect_err(upload);
        assert!(error.to_string().starts_with(sentence), "{upload:?}: {error}");
    }
    let wide = vec!["x"; COLUMNS_MAX + 1].join(",");
    assert!(matches!(csv(&wide), Err(UploadError::TooManyColumns(_))));
    assert_eq!(csv(&format!("to,{}\n", "x".repeat(COLUMN_NAME_BYTES_MAX + 1))), Err(UploadError::NameTooLong(2)));
    assert_eq!(csv(&"x".repeat(ROW_BYTES_MAX + 1)), Err(UploadError::HeaderTooLong));
    assert_eq!(read(csv_reader(), b"to,\xff\n", 3), Err(UploadError::NotUtf8));
}

#[test]
fn an_unknown_or_missing_column_rejects_the_file_with_a_remedy() {
    let column = |name: &str| Column { name: name.to_owned(), is_required: true };
    let outcome = |upload: &str, ignored: &[&str]| {
        let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
        let reader = RowReader::csv(Columns::new(["to", "1"].map(column).to_vec(), &ignored));
        read(reader, upload.as_bytes(), usize::MAX).map_err(|error| error.to_string())
    };
    assert_eq!(
        outcome("to,1,email\n+1,a,b\n", &[]).expect_err("unknown"),
        "the csv has `email`, which the template does not use; it uses `to`, `1`: rename or delete it, or leave it out with \
        ?ignore=email (on the command line --ignore email)"
    );
    assert_eq!(
        outcome("to,city,1,email\n", &["Email"]).expect_err("unknown"),
        "the csv has `city`, which the template does not use; it uses `to`, `1`: rename or delete it, or leave it out with \
        ?ignore=city (on the command line --ignore city)"
    );
    assert!(outcome("to,city,1,email\n+1,x,a,y\n", &["EMAIL", "city"]) == Ok(vec![row(1, raw("+1", &[("1", "a")]))]));
    assert_eq!(
        outcome("to\n+1\n", &[]).expect_err("missing"),
        "the csv has no column `1`, which the template needs in every row; its columns are `to`: add it, or rename the \
        column that has its values"
    );
}

#[test]
fn a_csv_exported_by_a_spreadsheet_is_understood() {
    let expected =
        [row(1, raw("+1", &[("first_name", "a"), ("x", "b")])), row(2, raw("+2", &[("first_name", "c"), ("x", "d")]))];
    for upload in [
        "sep=;\r\nto;first_name;x\r\n+1;a;b\r\n+2;c;d\r\n",
        "\u{feff}\"sep=|\"\nto|first_name|x\n+1|a|b\n+2|c|d\n",
        "to\tfirst_name\tx\n+1\ta\tb\n+2\tc\td\n",
        "TO, First_Name ,\u{a0}X\n+1,a,b\n+2,c,d\n",
        "to,first_name,x,,\n+1,a,b,,\n+2,c,d,,\n,,,,\n,,,,\n",
        "to,first_name,x\n+1,a,b,\n,,\n+2,c,d,, \n",
    ] {
        for chunk_len in [usize::MAX, 1] {
            let rows =
                read(csv_reader(), upload.as_bytes(), chunk_len).unwrap_or_else(|error| panic!("{upload:?}: {error}"));
            assert!(rows == expected, "{upload:?}: {rows:?}");
        }
    }
    let extra_cell = csv_rows("to,x,\n+1,a,b\n");
    assert!(
        reason(&extra_cell[0]).contains("different number of cells (3) than the header row (2)"),
        "{}",
        reason(&extra_cell[0])
    );
}

#[test]
fn a_bad_csv_row_is_rejected_and_the_next_is_read() {
    let wide = vec!["x"; 2 * COLUMNS_MAX].join(",");
    let long = "x".repeat(ROW_BYTES_MAX + 1);
    let upload = format!("to,1\n+1\n+2,a,b\n{wide}\n+4,{long}\n+5,b\n");
    for chunk_len in [usize::MAX, 100] {
        let rows = read(csv_reader(), upload.as_bytes(), chunk_len).expect("rows");
        assert_eq!(
            reason(&rows[0]),
            "the row cannot be read: it has a different number of cells (1) than the header row (2); is a separator or \
            a quote missing, or one too many?"
        );
        assert_eq!(
            reason(&rows[1]),
            "the row cannot be read: it has a different number of cells (3) than the header row (2); is a separator or \
            a quote missing, or one too many?"
        );
        assert_eq!(
            reason(&rows[2]),
            "the row cannot be read: it has a different number of cells (512) than the header row (2); is a separator \
            or a quote missing, or one too many?"
        );
        assert_eq!(
            reason(&rows[3]),
            "the row is longer than 65536 bytes: is a closing quote missing, or a line break between two rows?"
        );
        assert!(rows[4..] == [row(5, raw("+5", &[("1", "b")]))]);
    }
}

#[test]
fn an_unclosed_quote_rejects_its_row_with_that_reason() {
    let expected = "a quote that opens in this row is not closed by the end of the file, so that everything after it was read as part of \
        this row: is a closing quote missing?";
    for upload in [
        "to,1,2\n+1,a,b\n+2,\"Juan,c\n+3,d,e\n",
        "to,1,2\n+1,a,b\n+2,c,\"Juan\n+3,d,e",
        "to,1,2\r\n+1,a,b\r\n\"+2,c,d\r\n",
        "to,1,2\n+1,a,b\n+2,c,\"",
    ] {
        for chunk_len in [usize::MAX, 7, 1] {
            let rows = read(csv_reader(), upload.as_bytes(), chunk_len).expect("rows");
            assert!(rows[..1] == [row(1, raw("+1", &[("1", "a"), ("2", "b")]))], "{upload:?}");
            assert_eq!((rows.len(), rows[1].number, reason(&rows[1]).as_str()), (2, 2, expected), "{upload:?}");
        }
    }
    // A quote within a cell and an empty quoted cell at the end are valid.
    let rows = csv_rows("to,1\n+1,7\"\n+2,\"\"");
    assert!(rows == [row(1, raw("+1", &[("1", "7\"")])), row(2, raw("+2", &[("1", "")]))]);
    assert_eq!(csv("\"to,1\n+1,a\n"), Err(UploadError::UnclosedHeader));
}

#[test]
fn a_character_split_by_a_separator_is_not_utf8() {
    let rows = read(csv_reader(), b"to,1\n+1\xc3,\xb1\n+2,\xc3\xb1\n", usize::MAX).expect("rows");
    assert!(reason(&rows[0]).starts_with("the row cannot be read: it is not UTF-8; save"), "{}", reason(&rows[0]));
    assert!(rows[1..] == [row(2, raw("+2", &[("1", "ñ")]))]);
}

/// Bytes that trigger edge cases more often than uniformly random ones.
fn edge_cases() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => any::<u8>().prop_map(|byte| vec![byte]),
        12 => proptest::sample::select(vec![
            "\n",
            "\r",
            "\r\n",
            "\"",
            "\"\"",
            ",",
            ";",
            "\u{feff}",
            "ñ",
            "to",
            "to,1\n",
            "to;header;button.0\r\n",
            "+1,a\n",
            "{\"to\":\"+1\"}",
            "{\"to\":\"+1\",\"params\":{\"1\":\"",
            "\"}}\n",
            "\\u00f1",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => Just(vec![b'y'; 40_000]),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn rows_do_not_depend_on_chunk_boundaries(
        start in proptest::sample::select(vec!["", "to,1\n", "\u{feff}to;1\r\n"]),
        bytes in edge_cases(),
        chunk_len in 1_usize..40,
    ) {
        let upload = [start.as_bytes(), &bytes].concat();
        for reader in [RowReader::ndjson, csv_reader] {
            let whole = read(reader(), &upload, usize::MAX);
            prop_assert!(read(reader(), &upload, chunk_len) == whole);
            prop_assert!(read(reader(), &upload, 1) == whole);
        }
    }

    #[test]
    fn cells_survive_writing_and_reading_csv(
        rows in proptest::collection::vec((any::<String>(), any::<String>()), 0..20),
        separator in proptest::sample::select(vec![",", ";"]),
    ) {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let mut upload = ["to", "first_name", "2"].join(separator) + "\n";
        for (first, second) in &rows {
            upload += &[quoted("+1"), quoted(first), quoted(second)].join(separator);
            upload += "\r\n";
        }
        let read = csv_rows(&upload);
        let expected: Vec<Row> = rows
            .iter()
            .zip(1..)
            .map(|((first, second), number)| row(number, raw("+1", &[("first_name", first), ("2", second)])))
            .collect();
        prop_assert!(read == expected);
    }
}
