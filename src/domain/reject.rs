//! Why a row is rejected: a sentence for people and a code for programs.

use std::fmt;

use serde_json::error::Category;

/// The longest excerpt of the caller's own text in a reason, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// A text with at least this many digits may be a phone number; only the last four digits are shown.
const MASKED_DIGITS_MIN: usize = 7;

/// Why a row of an upload is rejected, a recipient or a suppression. The other rows are accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The phone number is not valid.
    #[error("`{field}` is {value}: {fault}")]
    NotE164 {
        /// The field that has it.
        field: &'static str,
        /// The value, redacted.
        value: String,
        /// What is wrong with the value.
        fault: PhoneFault,
    },
    /// The campaign already has this number. The field is the redacted number.
    #[error("the number {0} is already in the campaign: it gets one message, so leave this row out")]
    Duplicate(String),
    /// A parameter of the body is missing.
    #[error("parameter {0} is missing: the template needs a value for it")]
    ParameterMissing(String),
    /// The template has no parameter of this name.
    #[error("the template has no parameter {0}: leave it out, or check its name")]
    ParameterUnknown(String),
    /// Two values are given for one slot.
    #[error("{0} is given twice: leave one of the values out")]
    GivenTwice(RejectedField),
    /// The text is empty or has only blank characters. Meta refuses it.
    #[error("{0} is empty, and Meta does not accept empty text: fill it in, or leave this row out")]
    Empty(RejectedField),
    /// The text is longer than Meta accepts.
    #[error("{place} is too long: {length} characters, at most {limit}; shorten “{value}”")]
    TooLong {
        /// The field that is too long.
        place: RejectedField,
        /// The value, redacted.
        value: String,
        /// The length, in characters.
        length: usize,
        /// The maximum length, in characters.
        limit: usize,
    },
    /// The text has white space that Meta refuses in a parameter (error 132018).
    #[error(
        "{place} has a newline, a tab or more than four spaces in a row, which Meta refuses: “{value}”; put a single \
        space there{}",
        if value.contains("\\n") { ", or close a quote that was left open" } else { "" }
    )]
    Whitespace {
        /// The field.
        place: RejectedField,
        /// The value, redacted.
        value: String,
    },
    /// The header is missing.
    #[error("the header is missing: {0}")]
    HeaderMissing(HeaderNeeds),
    /// The template's header has nothing to fill.
    #[error("the template has no header to fill: leave the header out")]
    HeaderUnexpected,
    /// The value of the header has the wrong form.
    #[error("the header is {value}, which does not fit the template: {needs}")]
    HeaderForm {
        /// The value, redacted.
        value: String,
        /// What the header accepts.
        needs: HeaderNeeds,
    },
    /// The value of a button is missing.
    #[error("button {0} is missing: the template needs a value for it")]
    ButtonMissing(u8),
    /// The template has no such button, or the button has nothing to fill.
    #[error("the template has no button {0} to fill (buttons are counted from 0): leave it out")]
    ButtonUnknown(String),
    /// The time zone of a recipient does not exist. The field is the redacted text.
    #[error(
        "zone is “{0}”, which is no time zone of the tz database: name one such as America/Bogota, or leave it out"
    )]
    ZoneUnknown(String),
    /// There is no moment that is within the campaign's hours in all time zones of a recipient.
    #[error(
        "messages leave only {hours}, and that is never at once in all time zones where the recipient may be ({zones}): give the \
        row its `zone`, or choose longer hours"
    )]
    NeverOpen {
        /// The hours: `from 09:00 to 10:00, where the recipient is`.
        hours: String,
        /// The names of the zones.
        zones: String,
    },
    /// A suppression names no scope, and neither does the import.
    #[error(
        "the row has no scope: give it one (marketing or all), or give one for the whole list with ?scope= (on the command \
        line --scope)"
    )]
    ScopeMissing,
    /// A field of a suppression has a value that it does not accept.
    #[error("{field} is {value}, and it is one of {}", .words.join(", "))]
    UnknownWord {
        /// The field.
        field: &'static str,
        /// The value, redacted.
        value: String,
        /// The values that the field accepts.
        words: Vec<&'static str>,
    },
    /// A field of a contact has a value that it does not accept, as the text says.
    #[error("{0}")]
    Contact(String),
    /// `since` is not a time.
    #[error("since is {0}, which is not a time with its offset, such as 2026-11-22T09:00:00-03:00")]
    NotATime(String),
    /// `since` is in the future.
    #[error("since is {0}, which is in the future: a suppression begins when the person asked for it")]
    InTheFuture(String),
    /// The row is of another business than the import.
    #[error("the row is of business {0}, and the import is not: import the rows of that business by themselves")]
    OtherBusiness(String),
    /// The row is not JSON or CSV of the documented form.
    #[error("the row cannot be read: {0}")]
    Malformed(String),
    /// A quote is still open at the end of the upload.
    #[error(
        "a quote that opens in this row is not closed by the end of the file, so that everything after it was read as part of \
        this row: is a closing quote missing?"
    )]
    UnclosedQuote,
    /// The row is longer than the limit.
    #[error("the row is longer than {limit} bytes: is a closing quote missing, or a line break between two rows?")]
    LineTooLong {
        /// The maximum length of a row, in bytes.
        limit: usize,
    },
}

/// What is wrong with a phone number. `Display` adds the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneFault {
    /// The text is empty.
    Empty,
    /// A spreadsheet rounded the number: `5.49116E+12`.
    Rounded,
    /// An apostrophe precedes the number, as in a spreadsheet: `'+5491155550001`.
    Apostrophe,
    /// A formula of a spreadsheet: `="+5491155550001"`.
    Formula,
    /// A number with decimals: `5491155550001.0`.
    Decimal,
    /// `00` in place of the plus: `005491155550001`.
    DoubleZero,
    /// No country code: `01155550001`, or `+0…`.
    NoCountry,
    /// No plus: `5491155550001`.
    NoPlus,
    /// Blanks, dashes or other marks between the digits: `+54 9 11 5555-0001`.
    Punctuated,
    /// Too few or too many digits. The field is their number.
    Length(usize),
    /// Any other text.
    Other,
}

impl PhoneFault {
    /// What is wrong with `text`, which is not a number in E.164.
    fn of(text: &str) -> Self {
        let text = text.trim();
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let n_digits = text.bytes().filter(u8::is_ascii_digit).count();
        if text.is_empty() {
            return Self::Empty;
        }
        if text.starts_with(['\'', '’', '‘', '`']) {
            return Self::Apostrophe;
        }
        if text.starts_with('=') {
            return Self::Formula;
        }
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        if let Some((mantissa, exponent)) = unsigned.split_once(['e', 'E'])
            && is_digits(&mantissa.replace([',', '.'], ""))
            && is_digits(exponent.trim_start_matches('+'))
        {
            return Self::Rounded;
        }
        if let Some((whole, fraction)) = unsigned.split_once(['.', ','])
            && is_digits(whole)
            && whole.len() >= 7
            && fraction.bytes().all(|b| b == b'0')
        {
            return Self::Decimal;
        }
        let is_separator =
            |c: char| c.is_whitespace() || "-–—‑().,/_\u{200b}\u{200e}\u{202a}\u{202c}\u{feff}".contains(c);
        let bare: String = unsigned.chars().filter(|&c| !is_separator(c)).collect();
        if !is_digits(&bare) {
            return Self::Other;
        }
        match (text.starts_with('+'), bare.as_str()) {
            (true, bare) if bare.starts_with('0') => Self::NoCountry,
            (false, bare) if bare.starts_with("00") => Self::DoubleZero,
            (false, bare) if bare.starts_with('0') => Self::NoCountry,
            _ if !(7..=15).contains(&n_digits) => Self::Length(n_digits),
            (false, _) => Self::NoPlus,
            (true, _) => Self::Punctuated,
        }
    }
}

impl fmt::Display for PhoneFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            PhoneFault::Empty => "put a phone number in E.164 there, such as +5491155550001, or leave this row out",
            PhoneFault::Rounded => {
                "a spreadsheet has rounded the number, and its last digits are lost; format the column as text and put the \
                numbers in again"
            }
            PhoneFault::Apostrophe => {
                "the apostrophe in front is a spreadsheet's mark of text and not part of the number; remove it, so that the number \
                begins with its plus"
            }
            PhoneFault::Formula => "that is a spreadsheet's formula; write the number itself, such as +5491155550001",
            PhoneFault::Decimal => {
                "a spreadsheet or a program took the phone number for an amount and gave it decimals; format the column as text, \
                such as +5491155550001"
            }
            PhoneFault::DoubleZero => "it begins with 00; write a plus for the two zeros, such as +5491155550001",
            PhoneFault::NoCountry => {
                "it begins with 0 and has no country code; write the number in E.164, such as +5491155550001"
            }
            PhoneFault::NoPlus => {
                "the plus in front is missing, which spreadsheets drop from numbers; format the column as text and write the number in \
                E.164, such as +5491155550001"
            }
            PhoneFault::Punctuated => {
                "it has blanks, dashes or other marks between its digits; write only the plus and the digits, such as \
                +5491155550001"
            }
            PhoneFault::Length(n) => {
                return write!(
                    f,
                    "it has {n} digits, and a phone number in E.164 has 7 to 15 with its country code, such as \
                    +5491155550001"
                );
            }
            PhoneFault::Other => "that is not a phone number in E.164, such as +5491155550001",
        };
        f.write_str(text)
    }
}

/// The field that a rejection is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedField {
    /// A parameter of the body.
    Parameter(String),
    /// The rendered body.
    Body {
        /// The parameter that contributes the most characters.
        longest: String,
    },
    /// The header.
    Header,
    /// A field of the header object.
    HeaderField(&'static str),
    /// The value of a button.
    Button(u8),
    /// The rendered URL of a button.
    Url(u8),
}

impl fmt::Display for RejectedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectedField::Parameter(name) => write!(f, "parameter {name}"),
            RejectedField::Body { longest } => write!(f, "the body with parameter {longest} (its longest)"),
            RejectedField::Header => f.write_str("the header"),
            RejectedField::HeaderField(name) => write!(f, "the header's {name}"),
            RejectedField::Button(index) => write!(f, "button {index}"),
            RejectedField::Url(index) => write!(f, "the URL of button {index}"),
        }
    }
}

/// What a template's header accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderNeeds {
    /// A text.
    Text,
    /// An image or a video.
    Media,
    /// A document, which may have a filename.
    Document,
    /// A location on the map.
    Location,
}

impl fmt::Display for HeaderNeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeaderNeeds::Text => "it takes a text",
            HeaderNeeds::Media => "it takes either an https link or a numeric media id",
            HeaderNeeds::Document => "it takes either an https link or a numeric media id, and an optional filename",
            HeaderNeeds::Location => {
                "it takes a latitude of -90 to 90, a longitude of -180 to 180, and an optional name and address"
            }
        })
    }
}

impl Reject {
    /// The code for programs. Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Reject::NotE164 { .. } => "not_e164",
            Reject::Duplicate(_) => "duplicate",
            Reject::ParameterMissing(_) => "parameter_missing",
            Reject::ParameterUnknown(_) => "parameter_unknown",
            Reject::GivenTwice(_) => "given_twice",
            Reject::Empty(_) => "empty",
            Reject::TooLong { .. } => "too_long",
            Reject::Whitespace { .. } => "whitespace",
            Reject::HeaderMissing(_) => "header_missing",
            Reject::HeaderUnexpected => "header_unexpected",
            Reject::HeaderForm { .. } => "header_form",
            Reject::ButtonMissing(_) => "button_missing",
            Reject::ButtonUnknown(_) => "button_unknown",
            Reject::ZoneUnknown(_) => "zone_unknown",
            Reject::NeverOpen { .. } => "never_open",
            Reject::ScopeMissing => "scope_missing",
            Reject::UnknownWord { .. } => "unknown_word",
            Reject::NotATime(_) => "not_a_time",
            Reject::InTheFuture(_) => "in_the_future",
            Reject::OtherBusiness(_) => "other_business",
            Reject::Contact(_) => "contact",
            Reject::Malformed(_) => "malformed",
            Reject::UnclosedQuote => "unclosed_quote",
            Reject::LineTooLong { .. } => "line_too_long",
        }
    }

    /// The rejection of a `field` that is not a phone number.
    pub fn not_e164(field: &'static str, text: &str) -> Self {
        let fault = PhoneFault::of(text);
        let value = match fault {
            PhoneFault::Empty => "empty".to_owned(),
            _ => redacted(text),
        };
        Self::NotE164 { field, value, fault }
    }

    /// The rejection of a row with malformed JSON. The reason includes a line number only if the row is part of a JSON
    /// document of several lines.
    pub fn malformed_json(error: &serde_json::Error) -> Self {
        Self::Malformed(json_fault(error))
    }

    /// The rejection of a parameter name that the template does not have.
    pub fn parameter_unknown(name: &str) -> Self {
        Self::ParameterUnknown(truncated(name))
    }

    /// The rejection of a button index that the template does not have.
    pub fn button_unknown(index: &str) -> Self {
        Self::ButtonUnknown(truncated(index))
    }
}

/// What is wrong with a JSON document, and where, in words that do not assume knowledge of serde.
pub fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
    let why = match error.classify() {
        Category::Eof => format!("it ends in the middle ({why})"),
        Category::Syntax if why == "trailing characters" => "there is more text after its end".to_owned(),
        Category::Syntax => format!("it is not JSON ({why})"),
        Category::Data | Category::Io => data_fault(why),
    };
    let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
    format!("{why}, at {line}column {} of the JSON", error.column())
}

/// Why well-formed JSON does not have the expected shape. `why` is the message of serde, or of a custom error, which
/// is kept as it is.
fn data_fault(why: &str) -> String {
    let value = why.strip_prefix("invalid type: ").or_else(|| why.strip_prefix("invalid value: "));
    if let Some((found, expected)) = value.and_then(|value| value.rsplit_once(", expected ")) {
        return format!("there is {} where {} is expected", describe_found(found), describe_expected(expected));
    }
    if let Some(field) = why.strip_prefix("missing field ") {
        return format!("the field {} is missing", truncated(field));
    }
    if let Some(field) = why.strip_prefix("duplicate field ") {
        return format!("the field {} is given twice", truncated(field));
    }
    let list = |names: &str| names.strip_prefix("one of ").unwrap_or(names).replace(" or ", ", ");
    if let Some((field, fields)) = why.strip_prefix("unknown field ").and_then(|why| why.rsplit_once(", expected ")) {
        return format!("there is no field {}: its fields are {}", backticked(field), list(fields));
    }
    if let Some((word, words)) = why.strip_prefix("unknown variant ").and_then(|why| why.rsplit_once(", expected ")) {
        return format!("{} is not one of {}", backticked(word), list(words));
    }
    truncated(why)
}

fn backticked(word: &str) -> String {
    format!("`{}`", quoted(word.trim_matches('`')))
}

fn describe_found(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text {}", quoted(text)),
        Some(("integer" | "number", number)) => format!("the number {}", backticked(number)),
        Some(("floating", number)) => format!("the number {}", backticked(number.trim_start_matches("point "))),
        Some(("boolean", value)) => value.to_owned(),
        _ if found == "sequence" => "a list".to_owned(),
        _ if found == "map" => "an object".to_owned(),
        _ => truncated(found),
    }
}

fn describe_expected(expected: &str) -> String {
    match expected {
        "f64" => "a number".to_owned(),
        "u8" => "a whole number from 0 to 255".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "a boolean" => "true or false".to_owned(),
        _ if expected.starts_with("struct ") => "an object".to_owned(),
        _ => truncated(expected),
    }
}

/// At most [`QUOTED_CHARS_MAX`] characters of `text`. A response can contain a thousand reasons, so each must stay
/// small.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A value that is meant as a phone number, as it may appear in a log or a response: truncated, control characters
/// escaped, and of the digits only the last four.
pub fn redacted(text: &str) -> String {
    let text = truncated(text.trim());
    // A number that a spreadsheet rounded identifies no one any more.
    if PhoneFault::of(&text) == PhoneFault::Rounded { escaped(&text) } else { masked(&text) }
}

/// Any other value of the caller, as it may appear in a log or a response: as given, but truncated, control characters
/// escaped, and of each phone number in it only the last four digits.
pub fn quoted(text: &str) -> String {
    let text = truncated(text);
    let (mut quoted, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while !rest.is_empty() {
        let (plain, behind) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        quoted += &escaped(plain);
        let (number, behind) = behind.split_at(date_len(behind).unwrap_or_else(|| number_len(behind)));
        quoted += &if date_len(number).is_some() { number.to_owned() } else { masked(number) };
        rest = behind;
    }
    quoted
}

/// The length of the date with which a text begins, such as `2026-11-22`.
fn date_len(text: &str) -> Option<usize> {
    const FORM: &[u8] = b"0000-00-00";
    let is_form = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    let date = text.as_bytes().get(..FORM.len())?;
    let ends = text.as_bytes().get(FORM.len()).is_none_or(|next| !next.is_ascii_digit());
    (ends && date.iter().zip(FORM).all(is_form)).then_some(FORM.len())
}

/// The length of the number with which a text begins: digits, and what people write between them in phone numbers.
fn number_len(text: &str) -> usize {
    const MARKS: &str = "-–—‑().\u{200b}\u{200e}\u{202a}\u{202c}\u{feff}";
    let is_part = |c: char| c.is_ascii_digit() || c == ' ' || c == '\u{a0}' || MARKS.contains(c);
    let end = text.find(|c: char| !is_part(c)).unwrap_or(text.len());
    text[..end].rfind(|c: char| c.is_ascii_digit()).map_or(0, |last| last + 1)
}

/// The text with its control characters as escapes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

/// The text with only the last four of its digits, if it has as many as a phone number.
fn masked(text: &str) -> String {
    let n_digits = text.bytes().filter(u8::is_ascii_digit).count();
    let mut hidden = if n_digits >= MASKED_DIGITS_MIN { n_digits - 4 } else { 0 };
    let mut masked = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if hidden > 0 && c.is_ascii_digit() => {
                hidden -= 1;
                if !masked.ends_with('…') {
                    masked.push('…');
                }
            }
            // Characters between hidden digits are hidden too.
            _ if hidden > 0 && masked.ends_with('…') => {}
            _ if c.is_control() => masked.extend(c.escape_default()),
            _ => masked.push(c),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_value_only_phone_numbers_are_masked() {
        for (value, expected) in [
            ("promo2026-v10b33x7", "promo2026-v10b33x7"),
            ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2026-11-30 10:00, 2026-12-01", "2026-11-30 10:00, 2026-12-01"),
            ("  no more  ", "  no more  "),
            ("10, 20, 30, 40", "10, 20, 30, 40"),
            ("order 123456", "order 123456"),
            ("tab\there", "tab\\there"),
            ("call +54 9 11 5555-0001 now", "call +…-0001 now"),
            ("5491155550001,5491155550002", "…0001,…0002"),
            ("tel5491155550001x", "tel…0001x"),
            ("2026-11-301155550001", "…0001"),
            ("", ""),
        ] {
            assert_eq!(quoted(value), expected, "{value}");
        }
        assert_eq!(redacted(" 54911 5555-O0O1 "), "…55-O0O1", "a value that should be a number is masked as a whole");
        assert_eq!(quoted(&"ñ".repeat(100)), format!("{}…", "ñ".repeat(QUOTED_CHARS_MAX)));
    }
}
