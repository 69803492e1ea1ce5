//! Holds: which lines and templates must not be used for now, and why. An error holds only its own scope.

use std::{fmt, str::FromStr};

use super::{LineId, MetaCode, UnixMs, WabaId};

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

    #[test]
    fn a_hold_scope_round_trips_through_its_name() {
        let scopes = [
            HoldScope::Line("3001".into()),
            HoldScope::Waba("2001".into()),
            HoldScope::Token("2001".into()),
            HoldScope::Template { waba: "2001".into(), name: "spring_sale".into(), language: "es_AR".into() },
        ];
        for scope in scopes {
            assert_eq!(scope.to_string().parse::<HoldScope>().expect("a scope"), scope);
        }
    }
}
