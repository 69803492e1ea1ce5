//! Holds: which lines and templates must not be used for now, and why. An error holds only its own scope.

use std::{fmt, iter, str::FromStr};

use super::{ErrorScope, Language, Line, LineId, MetaCode, UnixMs, WabaId};

/// The scope of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HoldScope {
    /// One line.
    Line(LineId),
    /// Every line of a WABA.
    Waba(WabaId),
    /// Every line that sends with the access token of this WABA.
    Token(WabaId),
    /// Every campaign that sends this template of a WABA.
    Template {
        /// The WABA.
        waba: WabaId,
        /// The template's name.
        name: String,
        /// The template's language.
        language: String,
    },
}

impl HoldScope {
    /// The scopes that stop a line, the narrowest first.
    pub fn of_line(line: &Line) -> Vec<HoldScope> {
        iter::successors(Some(HoldScope::Line(line.id.clone())), |scope| scope.wider(line)).collect()
    }

    /// The scope that comes after this one in [`HoldScope::of_line`].
    fn wider(&self, line: &Line) -> Option<HoldScope> {
        match self {
            HoldScope::Line(_) => Some(HoldScope::Waba(line.waba.clone())),
            HoldScope::Waba(_) => Some(HoldScope::Token(line.waba.clone())),
            HoldScope::Token(_) => None,
            // A template stops campaigns, and no line.
            HoldScope::Template { .. } => None,
        }
    }

    /// The scope of a template.
    pub fn of_template(waba: &WabaId, name: &str, language: &Language) -> HoldScope {
        HoldScope::Template { waba: waba.clone(), name: name.to_owned(), language: language.to_string() }
    }

    /// What an error with the scope `blamed` holds. `line` and `waba` are those of the message, and `template` is the
    /// scope of its template, if that is known. `None` if the error holds nothing.
    pub fn of_error(
        blamed: ErrorScope,
        line: &LineId,
        waba: &WabaId,
        template: Option<HoldScope>,
    ) -> Option<HoldScope> {
        match blamed {
            ErrorScope::Line | ErrorScope::Platform => Some(HoldScope::Line(line.clone())),
            ErrorScope::Waba => Some(HoldScope::Waba(waba.clone())),
            ErrorScope::Token | ErrorScope::App => Some(HoldScope::Token(waba.clone())),
            ErrorScope::Template => template,
            ErrorScope::Campaign
            | ErrorScope::Message
            | ErrorScope::Recipient
            | ErrorScope::Pair
            | ErrorScope::None => None,
        }
    }
}

impl fmt::Display for HoldScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoldScope::Line(line) => write!(f, "line:{line}"),
            HoldScope::Waba(waba) => write!(f, "waba:{waba}"),
            HoldScope::Token(waba) => write!(f, "token:{waba}"),
            HoldScope::Template { waba, name, language } => write!(f, "template:{waba}/{name}/{language}"),
        }
    }
}

impl FromStr for HoldScope {
    type Err = BadHoldScope;

    fn from_str(text: &str) -> Result<Self, BadHoldScope> {
        let (kind, id) = text.split_once(':').ok_or(BadHoldScope)?;
        match kind {
            "line" => Ok(HoldScope::Line(id.into())),
            "waba" => Ok(HoldScope::Waba(id.into())),
            "token" => Ok(HoldScope::Token(id.into())),
            "template" => {
                let mut fields = id.split('/');
                let (waba, name, language) =
                    (fields.next(), fields.next().ok_or(BadHoldScope)?, fields.next().ok_or(BadHoldScope)?);
                Ok(HoldScope::Template {
                    waba: waba.unwrap_or_default().into(),
                    name: name.into(),
                    language: language.into(),
                })
            }
            _ => Err(BadHoldScope),
        }
    }
}

/// The text is not the name of a hold scope.
#[derive(Debug, thiserror::Error)]
#[error("not the scope of a hold")]
pub struct BadHoldScope;

/// Why and until when a scope is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Meta's error code; `None` if an operator or Meta's template list is the reason.
    pub code: Option<MetaCode>,
    /// The reason, for people.
    pub reason: String,
    /// When the hold was set.
    pub since: UnixMs,
    /// When the hold ends by itself. `None`: a probe or a person has to end it.
    pub until: Option<UnixMs>,
}

impl Hold {
    /// Whether the hold is in force at `now`.
    pub fn is_active(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::tests::line;

    #[test]
    fn the_scopes_that_stop_a_line_come_narrowest_first() {
        let scopes: Vec<String> = HoldScope::of_line(&line("3001", "2001")).iter().map(HoldScope::to_string).collect();
        assert_eq!(scopes, ["line:3001", "waba:2001", "token:2001"]);
    }

    #[test]
    fn an_error_holds_the_scope_that_it_blames() {
        let template = HoldScope::of_template(&"2001".into(), "spring_sale", &"es-AR".into());
        let held = |blamed| {
            HoldScope::of_error(blamed, &"3001".into(), &"2001".into(), Some(template.clone()))
                .map(|scope| scope.to_string())
        };
        let table = [
            (ErrorScope::Line, Some("line:3001")),
            (ErrorScope::Platform, Some("line:3001")),
            (ErrorScope::Waba, Some("waba:2001")),
            (ErrorScope::Token, Some("token:2001")),
            (ErrorScope::App, Some("token:2001")),
            (ErrorScope::Template, Some("template:2001/spring_sale/es_AR")),
            (ErrorScope::Campaign, None),
            (ErrorScope::Message, None),
            (ErrorScope::Recipient, None),
            (ErrorScope::Pair, None),
            (ErrorScope::None, None),
        ];
        for (blamed, expected) in table {
            assert_eq!(held(blamed).as_deref(), expected, "{blamed:?}");
        }
    }

    #[test]
    fn a_hold_scope_round_trips_through_its_name() {
        let template = HoldScope::of_template(&"2001".into(), "spring_sale", &"es_AR".into());
        for scope in HoldScope::of_line(&line("3001", "2001")).into_iter().chain([template]) {
            assert_eq!(scope.to_string().parse::<HoldScope>().expect("a scope"), scope);
        }
    }
}
