//! Why a row is refused, in one sentence for a person and one code for a program.

use std::fmt;

use serde_json::error::Category;

/// The longest piece of the caller's own text that a reason repeats, in characters.
const REPEATED_CHARS_MAX: usize = 64;

/// A text with at least this many digits may be a phone number: only the last four are shown.
const DIGITS_HIDDEN_FROM: usize = 7;

/// Why a recipient is not taken. The others of its upload are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// `to` is no phone number.
    #[error("`to` is {value}: {fault}")]
    NotE164 {
        /// What it is, shortened.
        value: String,
        /// What is wrong with it, and what helps.
        fault: PhoneFault,
    },
    /// The campaign has this number already. Holds its end, as it is shown.
    #[error("the number {0} is already in the campaign: it gets one message, so leave this row out")]
    Duplicate(String),
    /// A parameter of the body has no value.
    #[error("parameter {0} is missing: the template needs a value for it")]
    ParameterMissing(String),
    /// A value for a parameter that the template does not have.
    #[error("the template has no parameter {0}: leave it out, or check its name")]
    ParameterUnknown(String),
    /// Two values for one slot.
    #[error("{0} is given twice: leave one of the values out")]
    GivenTwice(RejectedField),
    /// Meta refuses a text in which nothing can be seen: it is empty, or made of blanks alone.
    #[error("{0} is empty, and Meta takes no empty text: put something there, or leave this row out")]
    Empty(RejectedField),
    /// Longer than Meta takes.
    #[error("{place} is too long: {length} characters, at most {limit}; shorten “{value}”")]
    TooLong {
        /// What is too long.
        place: RejectedField,
        /// The value, shortened.
        value: String,
        /// Its length in characters.
        length: usize,
        /// The most that Meta takes.
        limit: usize,
    },
    /// White space that Meta refuses in a parameter (error 132018).
    #[error(
        "{place} has a newline, a tab or more than four spaces in a row, which Meta refuses: “{value}”; put a single space there{}",
        if value.contains("\\n") { ", or close a quote that was left open" } else { "" }
    )]
    Whitespace {
        /// What has them.
        place: RejectedField,
        /// The value, shortened.
        value: String,
    },
    /// The template's header needs a value.
    #[error("the header is missing: {0}")]
    HeaderMissing(HeaderNeeds),
    /// A value for a header that takes none.
    #[error("the template has no header to fill: leave the header out")]
    HeaderUnexpected,
    /// The header's value does not have the form that the template needs.
    #[error("the header is {value}, which does not fit the template: {needs}")]
    HeaderForm {
        /// What it is, shortened.
        value: String,
        /// What fits.
        needs: HeaderNeeds,
    },
    /// A button that needs a value has none.
    #[error("button {0} is missing: the template needs a value for it")]
    ButtonMissing(u8),
    /// A value for a button that does not exist or takes none.
    #[error("the template has no button {0} to fill (buttons are counted from 0): leave it out")]
    ButtonUnknown(String),
    /// The row is not JSON or CSV of the documented form.
    #[error("the row cannot be read: {0}")]
    Malformed(String),
    /// A quote is open at the end of the upload.
    #[error(
        "a quote that opens in this row is not closed by the end of the file, so that everything after it was read as part of \
         this row: is a closing quote missing?"
    )]
    UnclosedQuote,
    /// The row is longer than an upload may have.
    #[error("the row is longer than {limit} bytes: is a closing quote missing, or a line break between two rows?")]
    LineTooLong {
        /// The most that a row may have, in bytes.
        limit: usize,
    },
}

/// What is wrong with a phone number, and what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneFault {
    /// Nothing is there.
    Empty,
    /// `5.49116E+12`.
    Rounded,
    /// `'+5491155550001`.
    Apostrophe,
    /// `="+5491155550001"`.
    Formula,
    /// `5491155550001.0`.
    Decimal,
    /// `005491155550001`.
    DoubleZero,
    /// `01155550001`, or `+0…`.
    NoCountry,
    /// `5491155550001`.
    NoPlus,
    /// `+54 9 11 5555-0001`.
    Punctuated,
    /// Too few digits, or too many.
    Length(usize),
    /// Something else.
    Other,
}

impl PhoneFault {
    /// What is wrong with `text`, which is no number in E.164.
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
                "it has blanks, dashes or other marks between its digits; write the plus and the digits alone, such as \
                 +5491155550001"
            }
            PhoneFault::Length(n) => {
                return write!(
                    f,
                    "it has {n} digits, and a phone number in E.164 has 7 to 15 with its country code, such as +5491155550001"
                );
            }
            PhoneFault::Other => "that is not a phone number in E.164, such as +5491155550001",
        };
        f.write_str(text)
    }
}

/// What a rejection is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedField {
    /// A parameter of the body.
    Parameter(String),
    /// The whole body, with the parameter that adds most to it.
    Body {
        /// The longest parameter.
        longest: String,
    },
    /// The header.
    Header,
    /// A field of the header's object.
    HeaderField(&'static str),
    /// What a button takes.
    Button(u8),
    /// The whole URL of a button.
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

/// What a template's header takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderNeeds {
    /// A text.
    Text,
    /// An image or a video.
    Media,
    /// A document, which may have a filename.
    Document,
    /// A place on the map.
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
    /// A name for programs that never changes.
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
            Reject::Malformed(_) => "malformed",
            Reject::UnclosedQuote => "unclosed_quote",
            Reject::LineTooLong { .. } => "line_too_long",
        }
    }

    /// A `to` that is no phone number.
    pub fn not_e164(text: &str) -> Self {
        let fault = PhoneFault::of(text);
        let value = match fault {
            PhoneFault::Empty => "empty".to_owned(),
            _ => shown(text),
        };
        Self::NotE164 { value, fault }
    }

    /// A row whose JSON has an error. Rows of an upload are one line each; only those inside of a larger JSON have more.
    pub fn malformed_json(error: &serde_json::Error) -> Self {
        Self::Malformed(json_fault(error))
    }

    /// A parameter with a name of the caller's.
    pub fn parameter_unknown(name: &str) -> Self {
        Self::ParameterUnknown(repeated(name))
    }

    /// A button with an index of the caller's.
    pub fn button_unknown(index: &str) -> Self {
        Self::ButtonUnknown(repeated(index))
    }
}

/// What is wrong with a JSON, and where, for people who do not know the words of its reader.
pub fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
    let why = match error.classify() {
        Category::Eof => format!("it ends in the middle ({why})"),
        Category::Syntax if why == "trailing characters" => "there is more behind its end".to_owned(),
        Category::Syntax => format!("it is not JSON ({why})"),
        Category::Data | Category::Io => misfit(why),
    };
    let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
    format!("{why}, at {line}column {} of the JSON", error.column())
}

/// Why well-formed JSON is not what is wanted. `why` is serde's; an error of our own says it in words already.
fn misfit(why: &str) -> String {
    let value = why.strip_prefix("invalid type: ").or_else(|| why.strip_prefix("invalid value: "));
    if let Some((came, wanted)) = value.and_then(|value| value.rsplit_once(", expected ")) {
        return format!("there is {} where {} is expected", what_came(came), what_is_wanted(wanted));
    }
    if let Some(field) = why.strip_prefix("missing field ") {
        return format!("the field {} is missing", repeated(field));
    }
    if let Some(field) = why.strip_prefix("duplicate field ") {
        return format!("the field {} is given twice", repeated(field));
    }
    let known = |known: &str| known.strip_prefix("one of ").unwrap_or(known).replace(" or ", ", ");
    if let Some((field, fields)) = why.strip_prefix("unknown field ").and_then(|why| why.rsplit_once(", expected ")) {
        return format!("there is no field {}: its fields are {}", ticked(field), known(fields));
    }
    if let Some((word, words)) = why.strip_prefix("unknown variant ").and_then(|why| why.rsplit_once(", expected ")) {
        return format!("{} is none of {}", ticked(word), known(words));
    }
    repeated(why)
}

fn ticked(word: &str) -> String {
    format!("`{}`", shown(word.trim_matches('`')))
}

fn what_came(came: &str) -> String {
    match came.split_once(' ') {
        Some(("string", text)) => format!("the text {}", shown(text)),
        Some(("integer" | "number", number)) => format!("the number {}", ticked(number)),
        Some(("floating", number)) => format!("the number {}", ticked(number.trim_start_matches("point "))),
        Some(("boolean", value)) => value.to_owned(),
        _ if came == "sequence" => "a list".to_owned(),
        _ if came == "map" => "an object".to_owned(),
        _ => repeated(came),
    }
}

fn what_is_wanted(wanted: &str) -> String {
    match wanted {
        "f64" => "a number".to_owned(),
        "u8" => "a whole number from 0 to 255".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "a boolean" => "true or false".to_owned(),
        _ if wanted.starts_with("struct ") => "an object".to_owned(),
        _ => repeated(wanted),
    }
}

/// The caller's text, cut: a thousand reasons are kept for the answer, and each must stay small.
fn repeated(text: &str) -> String {
    match text.char_indices().nth(REPEATED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The caller's value as a text may show it: cut, on one line, and of what may be a phone number the last four digits.
pub fn shown(text: &str) -> String {
    let text = repeated(text.trim());
    let n_digits = text.bytes().filter(u8::is_ascii_digit).count();
    // A number that a spreadsheet has rounded is nobody's any more.
    let is_rounded = PhoneFault::of(&text) == PhoneFault::Rounded;
    let mut hidden = if n_digits >= DIGITS_HIDDEN_FROM && !is_rounded { n_digits - 4 } else { 0 };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if hidden > 0 && c.is_ascii_digit() => {
                hidden -= 1;
                if !shown.ends_with('…') {
                    shown.push('…');
                }
            }
            // What stands between hidden digits is hidden with them.
            _ if hidden > 0 && shown.ends_with('…') => {}
            _ if c.is_control() => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown
}
