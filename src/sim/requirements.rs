//! The parameters that a template requires of a send.
//!
//! Checks only what Meta would refuse, and returns Meta's codes and texts. Never: renders a message.

use super::{
    request::{Component as Sent, Parameter},
    template::{Button, Component, HeaderFormat, ParameterFormat},
    wire::Refusal,
};

/// Meta's limit on the text of a body with its parameters, in characters.
const BODY_CHARS_MAX: usize = 1024;
/// Meta's limits on the parameters of buttons, in characters.
const PAYLOAD_CHARS_MAX: usize = 256;
const COUPON_CHARS_MAX: usize = 20;
const ONE_TIME_CODE_CHARS_MAX: usize = 15;
const URL_CHARS_MAX: usize = 2000;

/// The parameters that a template requires.
pub(super) struct Requirements {
    header: Header,
    body: Variables,
    /// Characters in the body, not counting its variables.
    body_chars: usize,
    buttons: Vec<Button>,
}

enum Header {
    Nothing,
    Text(Variables),
    Media(HeaderFormat),
}

/// The variables of a text, in order. For positional variables only the count matters.
struct Variables {
    names: Vec<String>,
    format: ParameterFormat,
}

impl Requirements {
    /// Errors: a sentence that says why Meta would not approve the template.
    pub(super) fn of(format: ParameterFormat, components: &[Component]) -> Result<Self, String> {
        let nothing = Variables { names: Vec::new(), format };
        let mut requirements =
            Requirements { header: Header::Nothing, body: nothing, body_chars: 0, buttons: Vec::new() };
        for component in components {
            match component {
                Component::Header { format: HeaderFormat::Text, text, .. } => {
                    let text = text.as_deref().ok_or("its text header has no text")?;
                    let (variables, _) = Variables::of(text, format)?;
                    if variables.names.len() > 1 {
                        return Err("its header has more than one variable".into());
                    }
                    requirements.header = Header::Text(variables);
                }
                Component::Header { format: medium, .. } => requirements.header = Header::Media(*medium),
                Component::Body { text, .. } => {
                    (requirements.body, requirements.body_chars) = Variables::of(text, format)?;
                }
                Component::Footer { .. } => {}
                Component::Buttons { buttons } => requirements.buttons.clone_from(buttons),
            }
        }
        Ok(requirements)
    }

    /// The indices and labels of the quick-reply buttons.
    pub(super) fn quick_replies(&self) -> impl Iterator<Item = (usize, &str)> {
        self.buttons.iter().enumerate().filter_map(|(index, button)| match button {
            Button::QuickReply { text } => Some((index, text.as_str())),
            _ => None,
        })
    }

    /// Checks the components of a send.
    ///
    /// Errors: 132000 for a wrong number of parameters; 132012 for a wrong type or name; 131008 for a missing button
    /// parameter or an empty text; 132018 for disallowed characters or a button that does not exist; 132005 for a body
    /// that is too long; 131009 for a button parameter that is too long; 100 for an unknown component type or a button
    /// that takes no parameter.
    pub(super) fn check(&self, sent: &[Sent<'_>]) -> Result<(), Refusal> {
        let mut header: &[Parameter<'_>] = &[];
        let mut body: &[Parameter<'_>] = &[];
        for component in sent {
            match component {
                component if component.is("header") => header = &component.parameters,
                component if component.is("body") => body = &component.parameters,
                component if component.is("button") => self.check_button(component)?,
                other => {
                    let details = format!("Param template['components']['type'] is {}", other.kind.as_str());
                    return Err(Refusal::new(100, details));
                }
            }
        }
        match &self.header {
            Header::Nothing => check_count("header", header.len(), 0)?,
            Header::Text(variables) => variables.check("header", header).map(drop)?,
            Header::Media(format) => check_media(*format, header)?,
        }
        let body_chars = self.body_chars + self.body.check("body", body)?;
        if body_chars > BODY_CHARS_MAX {
            return Err(Refusal::new(132_005, format!("body: {body_chars} characters of {BODY_CHARS_MAX}")));
        }
        for (index, button) in self.buttons.iter().enumerate().filter(|(_, button)| button.needs_parameter()) {
            if !sent.iter().any(|component| component.is("button") && component.index == Some(index)) {
                let details =
                    format!("buttons: Button at index {index} of type {} requires a parameter", button.name());
                return Err(Refusal::new(131_008, details));
            }
        }
        Ok(())
    }

    fn check_button(&self, sent: &Sent<'_>) -> Result<(), Refusal> {
        let index = sent.index.unwrap_or(0);
        let Some(button) = self.buttons.get(index) else {
            return Err(Refusal::new(132_018, format!("buttons: there is no button at index {index}")));
        };
        let name = button.name();
        let Some((sub_type, kind, chars_max)) = button.parameter_spec() else {
            let details = format!("buttons: Button at index {index} is of type {name} and does not support parameters");
            return Err(Refusal::new(100, details));
        };
        let [parameter] = sent.parameters.as_slice() else {
            let details = format!("buttons: Button at index {index} has {} parameters", sent.parameters.len());
            return Err(Refusal::new(132_000, details));
        };
        let fits = sent.sub_type.as_ref().is_some_and(|sent| sent.as_str().eq_ignore_ascii_case(sub_type));
        if !fits || parameter.kind.as_str() != kind {
            let details = format!("buttons: Format mismatch at index {index}, expected {name}");
            return Err(Refusal::new(132_012, details));
        }
        let text = match kind {
            "payload" => &parameter.payload,
            "coupon_code" => &parameter.coupon_code,
            _ => &parameter.text,
        };
        if check_text("buttons", index, text.as_ref().map(|text| text.as_str()))? > chars_max {
            let details = format!("buttons: Button at index {index} takes at most {chars_max} characters");
            return Err(Refusal::new(131_009, details));
        }
        Ok(())
    }
}

impl Variables {
    /// The variables of a text, and the number of its other characters.
    fn of(text: &str, format: ParameterFormat) -> Result<(Self, usize), String> {
        let mut names: Vec<String> = Vec::new();
        let mut chars = 0;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or("a variable is not closed")?;
            let fits = match format {
                ParameterFormat::Positional => name.parse() == Ok(names.len() + 1),
                ParameterFormat::Named => {
                    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                    !name.is_empty() && name.bytes().all(plain) && !names.iter().any(|other| other == name)
                }
            };
            if !fits {
                return Err(format!("the variable `{name}` does not fit its parameter format"));
            }
            names.push(name.to_owned());
            chars += before.chars().count();
            rest = after;
        }
        Ok((Self { names, format }, chars + rest.chars().count()))
    }

    /// Checks the parameters of a text. Returns the number of characters in them.
    fn check(&self, place: &str, parameters: &[Parameter<'_>]) -> Result<usize, Refusal> {
        check_count(place, parameters.len(), self.names.len())?;
        let mut chars = 0;
        for (index, parameter) in parameters.iter().enumerate() {
            let name = parameter.parameter_name.as_ref().map(|name| name.as_str());
            let fits = match (self.format, name) {
                (ParameterFormat::Positional, name) => name.is_none(),
                (ParameterFormat::Named, None) => false,
                (ParameterFormat::Named, Some(name)) => {
                    let repeated = |other: &Parameter<'_>| other.parameter_name == parameter.parameter_name;
                    self.names.iter().any(|other| other == name) && !parameters[..index].iter().any(repeated)
                }
            };
            if !fits {
                let details = format!("{place}: parameter name {name:?} is not expected at {index}");
                return Err(Refusal::new(132_012, details));
            }
            let text = match parameter.kind.as_str() {
                "text" => parameter.text.as_ref().map(|text| text.as_str()),
                "currency" | "date_time" => parameter.fallback(),
                other => {
                    let details = format!("{place}: Format mismatch, expected TEXT, received {other}");
                    return Err(Refusal::new(132_012, details));
                }
            };
            chars += check_text(place, index, text)?;
        }
        Ok(chars)
    }
}

impl Button {
    /// The subtype, the type of the one parameter and its maximum length in characters; `None` if the button takes no
    /// parameter.
    fn parameter_spec(&self) -> Option<(&'static str, &'static str, usize)> {
        match self {
            Button::QuickReply { .. } => Some(("quick_reply", "payload", PAYLOAD_CHARS_MAX)),
            Button::Url { url, .. } => url.contains("{{").then_some(("url", "text", URL_CHARS_MAX)),
            Button::Otp { .. } => Some(("url", "text", ONE_TIME_CODE_CHARS_MAX)),
            Button::CopyCode { .. } => Some(("copy_code", "coupon_code", COUPON_CHARS_MAX)),
            Button::PhoneNumber { .. } => None,
        }
    }

    /// Whether a send must provide the parameter. It is optional for a quick reply, whose payload defaults to its
    /// label.
    fn needs_parameter(&self) -> bool {
        self.parameter_spec().is_some() && !matches!(self, Button::QuickReply { .. })
    }

    /// The name in Meta's error texts.
    fn name(&self) -> &'static str {
        match self {
            Button::QuickReply { .. } => "QuickReply",
            Button::Url { .. } => "Url",
            Button::PhoneNumber { .. } => "Call",
            Button::CopyCode { .. } => "CopyCode",
            Button::Otp { .. } => "Otp",
        }
    }
}

fn check_count(place: &str, given: usize, expected: usize) -> Result<(), Refusal> {
    if given == expected {
        return Ok(());
    }
    let details = format!(
        "{place}: number of localizable_params ({given}) does not match the expected number of params ({expected})"
    );
    Err(Refusal::new(132_000, details))
}

fn check_media(format: HeaderFormat, parameters: &[Parameter<'_>]) -> Result<(), Refusal> {
    let received = parameters.first().map_or("unknown", |parameter| parameter.kind.as_str());
    let (expected, fits) = match (format, parameters.first()) {
        (HeaderFormat::Image, Some(p)) => ("image", p.image.as_ref().is_some_and(|media| media.has_source())),
        (HeaderFormat::Video, Some(p)) => ("video", p.video.as_ref().is_some_and(|media| media.has_source())),
        (HeaderFormat::Document, Some(p)) => ("document", p.document.as_ref().is_some_and(|media| media.has_source())),
        (HeaderFormat::Location, Some(p)) => ("location", p.location.is_some()),
        (HeaderFormat::Text, _) | (_, None) => ("a medium", false),
    };
    if fits && parameters.len() == 1 && received == expected {
        return Ok(());
    }
    Err(Refusal::new(132_012, format!("header: Format mismatch, expected {format:?}, received {received}")))
}

/// Checks a text parameter. Returns its number of characters.
fn check_text(place: &str, index: usize, text: Option<&str>) -> Result<usize, Refusal> {
    let text = text.unwrap_or("");
    if text.is_empty() {
        let details = format!("{place}['parameters'][{index}]: Parameter of type text is missing text value");
        return Err(Refusal::new(131_008, details));
    }
    if text.bytes().any(|b| matches!(b, b'\n' | b'\r' | b'\t')) || text.contains("     ") {
        let details =
            format!("{place}: Param text cannot have new-line/tab characters or more than 4 consecutive spaces");
        return Err(Refusal::new(132_018, details));
    }
    Ok(text.chars().count())
}
