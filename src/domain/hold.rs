//! Holds: what must not be used for now, and why. An error holds only its own scope.

use std::{fmt, iter, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    BusinessId, CallingCode, ErrorScope, Language, Line, LineId, Lines, MetaCode, Template, UnixMs, WabaId,
    template::Category,
};

/// The scope of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HoldScope {
    /// One line.
    Line(LineId),
    /// Every line of a WABA.
    Waba(WabaId),
    /// Every campaign of a WABA whose template is in the category utility.
    Utility(WabaId),
    /// Recipients in one country, on every line of a WABA.
    Country {
        /// The WABA.
        waba: WabaId,
        /// The calling code of the country.
        code: CallingCode,
    },
    /// Every line that sends with the access token of this WABA.
    Token(WabaId),
    /// Every line of a business.
    Business(BusinessId),
    /// Every line.
    Platform,
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

/// The message that an error is about. Unknown values are `None`.
#[derive(Clone, Copy, Debug)]
pub struct ErrorOrigin<'a> {
    /// The line that sent the message.
    pub line: &'a LineId,
    /// The WABA of the line.
    pub waba: &'a WabaId,
    /// The business of the WABA.
    pub business: Option<&'a BusinessId>,
    /// The country of the recipient.
    pub country: Option<CallingCode>,
    /// The scope of its template.
    pub template: Option<&'a HoldScope>,
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
            HoldScope::Token(_) => Some(HoldScope::Business(line.business.clone())),
            HoldScope::Business(_) => Some(HoldScope::Platform),
            HoldScope::Platform => None,
            // They stop campaigns or recipients, not lines.
            HoldScope::Utility(_) | HoldScope::Country { .. } | HoldScope::Template { .. } => None,
        }
    }

    /// The scope of a template.
    pub fn of_template(waba: &WabaId, name: &str, language: &Language) -> HoldScope {
        HoldScope::Template { waba: waba.clone(), name: name.to_owned(), language: language.to_string() }
    }

    /// The scope of all campaigns with a template of this category; `None` if Meta never holds this category on its
    /// own.
    pub fn of_category(waba: &WabaId, category: &Category) -> Option<HoldScope> {
        match category {
            Category::Utility => Some(HoldScope::Utility(waba.clone())),
            Category::Marketing | Category::Authentication | Category::Other(_) => None,
        }
    }

    /// The scopes that stop a campaign with this template on all of its lines, without stopping the lines: the
    /// template, then its category.
    pub fn of_campaign(waba: &WabaId, template: &Template) -> Vec<HoldScope> {
        let Template { name, language, category, .. } = template;
        [Self::of_template(waba, name, language)].into_iter().chain(Self::of_category(waba, category)).collect()
    }

    /// What an error with the scope `blamed` holds. `None` if the error holds nothing, or if what it holds is not
    /// known.
    pub fn of_error(blamed: ErrorScope, origin: ErrorOrigin<'_>) -> Option<HoldScope> {
        let waba = || origin.waba.clone();
        match blamed {
            ErrorScope::Line => Some(HoldScope::Line(origin.line.clone())),
            ErrorScope::Waba => Some(HoldScope::Waba(waba())),
            ErrorScope::Utility => Some(HoldScope::Utility(waba())),
            ErrorScope::Country => origin.country.map(|code| HoldScope::Country { waba: waba(), code }),
            ErrorScope::Token | ErrorScope::App => Some(HoldScope::Token(waba())),
            ErrorScope::Business => origin.business.cloned().map(HoldScope::Business),
            ErrorScope::Platform => Some(HoldScope::Platform),
            ErrorScope::Template => origin.template.cloned(),
            ErrorScope::Campaign
            | ErrorScope::Message
            | ErrorScope::Recipient
            | ErrorScope::Pair
            | ErrorScope::None => None,
        }
    }

    /// The kinds of scopes: what the name of a scope begins with.
    pub const KINDS: [&str; 8] = ["line", "waba", "utility", "country", "token", "business", "platform", "template"];

    /// The kind, one of [`HoldScope::KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            HoldScope::Line(_) => "line",
            HoldScope::Waba(_) => "waba",
            HoldScope::Utility(_) => "utility",
            HoldScope::Country { .. } => "country",
            HoldScope::Token(_) => "token",
            HoldScope::Business(_) => "business",
            HoldScope::Platform => "platform",
            HoldScope::Template { .. } => "template",
        }
    }

    /// The business that the scope belongs to, if one of its lines is configured; `None` for the platform.
    pub fn business<'a>(&'a self, lines: &'a Lines) -> Option<&'a BusinessId> {
        let line = match self {
            HoldScope::Business(business) => return Some(business),
            HoldScope::Line(line) => lines.by_id(line),
            _ => lines.of_waba(self.waba()?).next(),
        };
        line.map(|line| &line.business)
    }

    /// The WABA that the scope belongs to; `None` if it is one line, or more than one WABA.
    pub fn waba(&self) -> Option<&WabaId> {
        match self {
            HoldScope::Waba(waba)
            | HoldScope::Utility(waba)
            | HoldScope::Token(waba)
            | HoldScope::Country { waba, .. }
            | HoldScope::Template { waba, .. } => Some(waba),
            HoldScope::Line(_) | HoldScope::Business(_) | HoldScope::Platform => None,
        }
    }
}

impl fmt::Display for HoldScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind())?;
        match self {
            HoldScope::Line(line) => line.fmt(f),
            HoldScope::Waba(waba) | HoldScope::Utility(waba) | HoldScope::Token(waba) => waba.fmt(f),
            HoldScope::Country { waba, code } => write!(f, "{waba}/{code}"),
            HoldScope::Business(business) => business.fmt(f),
            HoldScope::Platform => f.write_str("meta"),
            HoldScope::Template { waba, name, language } => write!(f, "{waba}/{name}/{language}"),
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
            "utility" => Ok(HoldScope::Utility(id.into())),
            "token" => Ok(HoldScope::Token(id.into())),
            "business" => Ok(HoldScope::Business(id.into())),
            "platform" if id == "meta" => Ok(HoldScope::Platform),
            "country" => {
                let (waba, code) = id.split_once('/').ok_or(BadHoldScope)?;
                Ok(HoldScope::Country { waba: waba.into(), code: code.parse().map_err(|_| BadHoldScope)? })
            }
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

/// What ends a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lifter {
    /// Its end time.
    Time,
    /// A probe: Pregón asks Meta for the health of the WABA and its lines, or for the list of templates.
    Probe,
    /// A webhook from Meta.
    Webhook,
    /// An operator lifts it.
    Person,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::tests::line;

    #[test]
    fn the_scopes_that_stop_a_line_come_narrowest_first() {
        let scopes: Vec<String> = HoldScope::of_line(&line("3001", "2001")).iter().map(HoldScope::to_string).collect();
        assert_eq!(scopes, ["line:3001", "waba:2001", "token:2001", "business:1001", "platform:meta"]);
    }

    #[test]
    fn an_error_holds_the_scope_that_it_blames() {
        let template = HoldScope::of_template(&"2001".into(), "spring_sale", &"es-AR".into());
        let country = CallingCode::of("+5491155550001".parse().expect("a number"));
        let (line, waba, business) = ("3001".into(), "2001".into(), "1001".into());
        let known = ErrorOrigin {
            line: &line,
            waba: &waba,
            business: Some(&business),
            country: Some(country),
            template: Some(&template),
        };
        let unknown = ErrorOrigin { business: None, country: None, template: None, ..known };
        let held = |blamed, origin| HoldScope::of_error(blamed, origin).map(|scope| scope.to_string());
        let table = [
            (ErrorScope::Line, Some("line:3001")),
            (ErrorScope::Waba, Some("waba:2001")),
            (ErrorScope::Utility, Some("utility:2001")),
            (ErrorScope::Token, Some("token:2001")),
            (ErrorScope::App, Some("token:2001")),
            (ErrorScope::Platform, Some("platform:meta")),
            (ErrorScope::Campaign, None),
            (ErrorScope::Message, None),
            (ErrorScope::Recipient, None),
            (ErrorScope::Pair, None),
            (ErrorScope::None, None),
        ];
        for (blamed, expected) in table {
            assert_eq!(held(blamed, known).as_deref(), expected, "{blamed:?}");
            assert_eq!(held(blamed, unknown).as_deref(), expected, "{blamed:?}");
        }
        for (blamed, expected) in [
            (ErrorScope::Business, "business:1001"),
            (ErrorScope::Country, "country:2001/54"),
            (ErrorScope::Template, "template:2001/spring_sale/es_AR"),
        ] {
            assert_eq!(held(blamed, known).as_deref(), Some(expected));
            assert_eq!(held(blamed, unknown), None, "what is not known is not held");
        }
    }

    #[test]
    fn a_hold_scope_round_trips_through_its_name() {
        let waba = || WabaId::from("2001");
        let of_campaigns = [
            HoldScope::of_template(&waba(), "spring_sale", &"es_AR".into()),
            HoldScope::Utility(waba()),
            HoldScope::Country { waba: waba(), code: "598".parse().expect("a code") },
        ];
        for scope in HoldScope::of_line(&line("3001", "2001")).into_iter().chain(of_campaigns) {
            assert_eq!(scope.to_string().parse::<HoldScope>().expect("a scope"), scope);
        }
        for bad in ["", "line", "lines:3001", "country:2001", "country:2001/x", "template:2001/a", "platform:x"] {
            assert!(bad.parse::<HoldScope>().is_err(), "{bad}");
        }
    }
}
