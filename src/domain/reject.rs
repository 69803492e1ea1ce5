//! Why a row is refused, in one sentence for a person and one code for a program.

use std::fmt;

/// The longest piece of the caller's own text that a reason repeats, in characters.
const REPEATED_CHARS_MAX: usize = 64;

/// Why a recipient is not taken. The others of its upload are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// `to` is no phone number.
    #[error("`to` is not a phone number in E.164, such as +5491155550001")]
    NotE164,
    /// The campaign has this number already.
    #[error("this number is already in the campaign")]
    Duplicate,
    /// A parameter of the body has no value.
    #[error("parameter {0} is missing")]
    ParameterMissing(String),
    /// A value for a parameter that the template does not have.
    #[error("the template has no parameter {0}")]
    ParameterUnknown(String),
    /// Two values for one slot.
    #[error("{0} is given twice")]
    GivenTwice(Place),
    /// Meta refuses a text in which nothing can be seen: it is empty, or made of blanks alone.
    #[error("{0} is empty")]
    Empty(Place),
    /// Longer than Meta takes.
    #[error("{place} is too long: {length} characters, at most {limit}")]
    TooLong {
        /// What is too long.
        place: Place,
        /// Its length in characters.
        length: usize,
        /// The most that Meta takes.
        limit: usize,
    },
    /// White space that Meta refuses in a parameter (error 132018).
    #[error("{0} has a newline, a tab or more than four spaces in a row")]
    Whitespace(Place),
    /// The template's header needs a value.
    #[error("the header is missing: {0}")]
    HeaderMissing(HeaderNeeds),
    /// A value for a header that takes none.
    #[error("the template has no header to fill")]
    HeaderUnexpected,
    /// The header's value does not have the form that the template needs.
    #[error("the header does not fit the template: {0}")]
    HeaderForm(HeaderNeeds),
    /// A button that needs a value has none.
    #[error("button {0} is missing")]
    ButtonMissing(u8),
    /// A value for a button that does not exist or takes none.
    #[error("the template has no button {0} to fill (buttons are counted from 0)")]
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
    #[error("the row is longer than {limit} bytes (is a closing quote missing?)")]
    LineTooLong {
        /// The most that a row may have, in bytes.
        limit: usize,
    },
}

/// What a rejection is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Parameter(name) => write!(f, "parameter {name}"),
            Place::Body { longest } => write!(f, "the body with parameter {longest} (its longest)"),
            Place::Header => f.write_str("the header"),
            Place::HeaderField(name) => write!(f, "the header's {name}"),
            Place::Button(index) => write!(f, "button {index}"),
            Place::Url(index) => write!(f, "the URL of button {index}"),
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
            Reject::NotE164 => "not_e164",
            Reject::Duplicate => "duplicate",
            Reject::ParameterMissing(_) => "parameter_missing",
            Reject::ParameterUnknown(_) => "parameter_unknown",
            Reject::GivenTwice(_) => "given_twice",
            Reject::Empty(_) => "empty",
            Reject::TooLong { .. } => "too_long",
            Reject::Whitespace(_) => "whitespace",
            Reject::HeaderMissing(_) => "header_missing",
            Reject::HeaderUnexpected => "header_unexpected",
            Reject::HeaderForm(_) => "header_form",
            Reject::ButtonMissing(_) => "button_missing",
            Reject::ButtonUnknown(_) => "button_unknown",
            Reject::Malformed(_) => "malformed",
            Reject::UnclosedQuote => "unclosed_quote",
            Reject::LineTooLong { .. } => "line_too_long",
        }
    }

    /// A row whose JSON has an error. Rows of an upload are one line each; only those inside of a larger JSON have more.
    pub fn malformed_json(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let why = repeated(text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why));
        let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
        Self::Malformed(format!("{why}, at {line}column {} of the JSON", error.column()))
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

/// The caller's text, cut: a thousand reasons are kept for the answer, and each must stay small.
fn repeated(text: &str) -> String {
    match text.char_indices().nth(REPEATED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
