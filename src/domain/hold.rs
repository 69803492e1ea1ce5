//! Holds: what may not be sent for now, and why. An error stops only what it is about.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{LineId, UnixMs, WabaId};

/// What is held back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HoldScope {
    /// One line.
    Line(LineId),
    /// Every line of a WABA.
    Waba(WabaId),
    /// Every line that sends with the WABA's token.
    Token(WabaId),
    /// Every campaign on this template of a WABA.
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

/// Not the name of a scope.
#[derive(Debug, thiserror::Error)]
#[error("not the scope of a hold")]
pub struct BadHoldScope;

/// Why a scope is held back, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Meta's code; 0 where an operator or Meta's template list says so.
    pub code: u32,
    /// For people.
    pub reason: String,
    /// Since when.
    pub since: UnixMs,
    /// It ends by itself then; without it a probe or a person has to end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
}

impl Hold {
    /// It is still in force at `now`.
    pub fn holds(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_comes_back_from_its_name() {
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
