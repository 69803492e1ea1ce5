//! Values on the command line, and how they are read.

use std::{
    convert::Infallible,
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
};

use clap::builder::{PossibleValuesParser, StringValueParser, TypedValueParser};

use crate::domain::{
    AgentId, AgentRole, BusinessId, CampaignId, Day, EntryId, EventType, FrequencyCap, LINE_RATE_MAX, LINE_RATE_MIN,
    Language, Late, LineId, OnDoubt, OnWithheld, Phone, Presence, SendWindow, State, SuppressionReason,
    SuppressionScope, TimeOfDay, UnixMs, WabaId,
    campaign::{OptOutButton, RetriedState},
    ids::BadEntryId,
    phone::NotE164,
};

/// The largest whole number that is read exactly from a form such as `1e6`: 2⁵³.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A campaign on the command line: by the id that Pregón gave it, or by the caller's external id. A text in the form of
/// an id (26 characters, a ULID) is an id; `external:` before it makes it an external id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CampaignName {
    /// The id.
    Id(CampaignId),
    /// The external id.
    External(String),
}

impl FromStr for CampaignName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("external:").unwrap_or(text) {
            "" => Err("a campaign has an id, or an external id: `pregon campaign list` shows the campaigns"),
            id if id.len() == text.len() => {
                Ok(text.parse().map_or_else(|_| CampaignName::External(text.to_owned()), CampaignName::Id))
            }
            external => Ok(CampaignName::External(external.to_owned())),
        }
    }
}

impl Display for CampaignName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CampaignName::Id(id) => id.fmt(f),
            CampaignName::External(external_id) => f.write_str(external_id),
        }
    }
}

/// An agent on the command line: by the id, or by the email address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentName {
    /// The id.
    Id(AgentId),
    /// The email address.
    Email(String),
}

impl Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentName::Id(id) => id.fmt(f),
            AgentName::Email(email) => f.write_str(email),
        }
    }
}

pub(super) fn agent_name(text: &str) -> Result<AgentName, &'static str> {
    match text.contains('@') {
        true => Ok(AgentName::Email(text.to_owned())),
        false => text
            .parse()
            .map(AgentName::Id)
            .map_err(|_| "an agent has an id, or an email address: `pregon agent list` shows the agents"),
    }
}

/// The value of an option that `none` removes.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T>(pub Option<T>);

/// A template on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateId {
    /// The WABA that owns it.
    pub waba: WabaId,
    /// Its name.
    pub name: String,
    /// Its language.
    pub language: Language,
}

impl Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.waba, self.name, self.language)
    }
}

/// The name of a template, and its language: `hello_world/en_US`.
pub(super) fn template_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((name, language)) if !name.is_empty() && !language.is_empty() => Ok((name.into(), language.into())),
        _ => Err("give it as NAME/LANG, such as hello_world/en_US".into()),
    }
}

/// Takes the id of a hold too: `template:2001/order_update/es_AR`.
pub(super) fn template_id(text: &str) -> Result<TemplateId, String> {
    let mut fields = text.strip_prefix("template:").unwrap_or(text).split('/');
    let fields = (fields.next(), fields.next(), fields.next(), fields.next());
    match fields {
        (Some(waba), Some(name), Some(language), None) if ![waba, name, language].contains(&"") => {
            Ok(TemplateId { waba: waba.into(), name: name.to_owned(), language: language.into() })
        }
        _ => Err("not a template, such as 2001/order_update/es_AR; `pregon template list` lists them".into()),
    }
}

pub(super) fn line_id(text: &str) -> Result<LineId, String> {
    if text.is_empty() { Err("a line has a phone_number_id".into()) } else { Ok(text.into()) }
}

pub(super) fn business_id(text: &str) -> Result<BusinessId, String> {
    if text.is_empty() { Err("a business has an id".into()) } else { Ok(text.into()) }
}

pub(super) fn entry_id(text: &str) -> Result<EntryId, String> {
    text.parse().map_err(|error: BadEntryId| format!("{error}; `pregon job list` shows the ids"))
}

pub(super) fn time(text: &str) -> Result<UnixMs, String> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "not a time with its offset, such as 2026-11-22T09:00:00-03:00".to_owned())?;
    u64::try_from(at.as_millisecond()).map(UnixMs).map_err(|_| "before 1970".into())
}

pub(super) fn time_or_none(text: &str) -> Result<Setting<UnixMs>, String> {
    if text == "none" { Ok(Setting(None)) } else { time(text).map(|at| Setting(Some(at))) }
}

pub(super) fn window_or_none(text: &str) -> Result<Setting<SendWindow>, String> {
    if text == "none" { Ok(Setting(None)) } else { window(text).map(|window| Setting(Some(window))) }
}

/// `FROM-TO ZONE` and optionally days, separated by commas.
pub(super) fn window(text: &str) -> Result<SendWindow, String> {
    let wrong = || "not like `09:00-20:00 America/Bogota` or `09:00-20:00 America/Bogota mon,tue`".to_owned();
    let mut words = text.split_whitespace();
    let (hours, zone, days) = (words.next().ok_or_else(wrong)?, words.next().ok_or_else(wrong)?, words.next());
    let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
    let [from, to] = [from, to].map(TimeOfDay::parse);
    let day = |name: &str| Day::ALL.into_iter().find(|day| day.name() == name);
    let days = days.map_or(Some(Day::ALL.to_vec()), |days| days.split(',').map(day).collect());
    let rest = words.next();
    let (Some(from), Some(to), Some(days), None) = (from, to, days, rest) else { return Err(wrong()) };
    Ok(SendWindow { from, to, days, zone: zone.to_owned() })
}

pub(super) fn frequency_cap(text: &str) -> Result<FrequencyCap, String> {
    let numbers = text.split_once('/').and_then(|(messages, days)| Some((messages.parse().ok()?, days.parse().ok()?)));
    let cap = numbers.map(|(messages, days)| FrequencyCap { messages, days });
    let cap = cap.ok_or_else(|| "not like 2/7, for 2 messages in 7 days".to_owned())?;
    cap.problem().map_or(Ok(cap), Err)
}

pub(super) fn rate_or_none(text: &str) -> Result<Setting<f64>, String> {
    if text == "none" { Ok(Setting(None)) } else { rate(text).map(|rate| Setting(Some(rate))) }
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (LINE_RATE_MIN..=LINE_RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("not a number from {LINE_RATE_MIN} to {LINE_RATE_MAX}"))
}

pub(super) fn line_rate(text: &str) -> Result<f64, String> {
    let remedies = "--default in its place resets the rate, and `pregon line pause` stops the line";
    rate(text).map_err(|wrong| format!("{wrong}; {remedies}"))
}

pub(super) fn statuses(text: &str) -> Result<f64, String> {
    let statuses = text.parse().ok().filter(|statuses| (0.0..=100.0).contains(statuses));
    statuses.ok_or_else(|| "not a number from 0 to 100".into())
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.9).contains(share));
    share.ok_or_else(|| "not a number from 0 to 0.9".into())
}

pub(super) fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| *hours > 0.0 && *hours <= 24.0);
    hours.ok_or_else(|| "not a number above 0 and up to 24".into())
}

pub(super) fn phone(text: &str) -> Result<Phone, NotE164> {
    text.parse()
}

pub(super) fn suppression_scope() -> impl TypedValueParser<Value = SuppressionScope> {
    let find = |name: &str| SuppressionScope::ALL.into_iter().find(|scope| scope.name() == name);
    PossibleValuesParser::new(SuppressionScope::ALL.map(SuppressionScope::name))
        .try_map(move |name| find(&name).ok_or("not a scope"))
}

pub(super) fn suppression_reason() -> impl TypedValueParser<Value = SuppressionReason> {
    let find = |name: &str| SuppressionReason::ALL.into_iter().find(|reason| reason.name() == name);
    PossibleValuesParser::new(SuppressionReason::ALL.map(SuppressionReason::name))
        .try_map(move |name| find(&name).ok_or("not a reason"))
}

pub(super) fn agent_role() -> impl TypedValueParser<Value = AgentRole> {
    PossibleValuesParser::new(AgentRole::ALL.map(AgentRole::name))
        .try_map(|name| AgentRole::named(&name).ok_or("not a role"))
}

pub(super) fn presence() -> impl TypedValueParser<Value = Presence> {
    PossibleValuesParser::new(Presence::ALL.map(Presence::name))
        .try_map(|name| Presence::named(&name).ok_or("not a presence"))
}

pub(super) fn event_type() -> impl TypedValueParser<Value = EventType> {
    let names = EventType::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<EventType>())
}

pub(super) fn late() -> impl TypedValueParser<Value = Late> {
    let names = Late::ALL.map(Late::name);
    let choice = |name: String| Late::ALL.into_iter().find(|late| late.name() == name).ok_or("one of the names above");
    PossibleValuesParser::new(names).try_map(choice)
}

pub(super) fn on_doubt() -> impl TypedValueParser<Value = OnDoubt> {
    let names = [OnDoubt::Hold, OnDoubt::Resend].map(OnDoubt::name);
    PossibleValuesParser::new(names)
        .map(|name| if name == OnDoubt::Resend.name() { OnDoubt::Resend } else { OnDoubt::Hold })
}

pub(super) fn on_withheld() -> impl TypedValueParser<Value = OnWithheld> {
    let names = [OnWithheld::Fail, OnWithheld::Retry].map(OnWithheld::name);
    PossibleValuesParser::new(names)
        .map(|name| if name == OnWithheld::Retry.name() { OnWithheld::Retry } else { OnWithheld::Fail })
}

pub(super) fn opt_out_button(text: &str) -> Result<OptOutButton, Infallible> {
    let stops_all = text.strip_prefix("all:");
    let scope = if stops_all.is_some() { SuppressionScope::All } else { SuppressionScope::Marketing };
    Ok(OptOutButton { text: stops_all.unwrap_or(text).to_owned(), scope })
}

pub(super) fn retried_state() -> impl TypedValueParser<Value = RetriedState> {
    PossibleValuesParser::new(RetriedState::ALL.map(RetriedState::name))
        .map(|name| if name == RetriedState::Failed.name() { RetriedState::Failed } else { RetriedState::Unknown })
}

/// A public state of a recipient, by its name.
pub(super) fn recipient_state() -> impl TypedValueParser<Value = &'static str> {
    // `Refused` is shown as `failed`.
    let names = || State::ALL.into_iter().filter(|state| *state != State::Refused).map(State::name);
    PossibleValuesParser::new(names()).try_map(move |text| names().find(|name| *name == text).ok_or("not a state"))
}

/// A whole number in `range`, which may be written as `1e6`.
pub fn number<T>(range: RangeInclusive<T>) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    StringValueParser::new().try_map(move |text| {
        let number = whole(&text).and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        number.ok_or_else(|| format!("not a whole number from {} to {}", range.start(), range.end()))
    })
}

/// `1000000`, `1e6` or `1.5e6`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
fn whole(text: &str) -> Option<u64> {
    let of_float =
        |number: f64| (number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number)).then_some(number as u64);
    text.parse().ok().or_else(|| of_float(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_offset() {
        assert_eq!(time("2026-11-22T09:00:00-03:00"), time("2026-11-22T12:00:00Z"));
        assert!(time("2026-11-22T09:00:00").is_err());
        assert!(time("tomorrow").is_err());
    }

    #[test]
    fn a_template_has_a_waba_a_name_and_a_language() {
        let id = TemplateId { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
        for good in ["2001/order_update/es_AR", "2001/order_update/es-AR", "template:2001/order_update/es_AR"] {
            assert_eq!(template_id(good), Ok(id.clone()), "{good}");
        }
        for bad in ["", "order_update", "2001/order_update", "2001//es_AR", "2001/order_update/es_AR/x"] {
            assert!(template_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_outside_the_range_of_lines_is_rejected() {
        for good in ["0.01", "80", "1e6"] {
            assert!(rate(good).is_ok(), "{good}");
        }
        for bad in ["0", "-1", "1e-11", "1000001", "inf", "NaN", "fast"] {
            assert_eq!(rate(bad), Err("not a number from 0.01 to 1000000".to_owned()), "{bad}");
        }
        let error = line_rate("none").expect_err("not a number");
        assert!(error.contains("--default") && error.contains("pregon line pause"), "{error}");
    }

    #[test]
    fn a_number_may_be_written_with_an_exponent() {
        let read = [("1000000", 1_000_000), ("1e6", 1_000_000), ("1.5E3", 1_500), ("0", 0), ("3.0", 3)];
        for (text, number) in read {
            assert_eq!(whole(text), Some(number), "{text}");
        }
        assert_eq!(whole("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "1.5", "1e-1", "-1", "1e17", "inf", "NaN", "1,000", "ten"] {
            assert_eq!(whole(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_campaign_is_named_by_its_id_or_external_id() {
        let id = "01JD8Z2V3W4X5Y6Z7A8B9C0D1E";
        let read = |text: &str| text.parse::<CampaignName>();
        assert_eq!(read(id), Ok(CampaignName::Id(id.parse().expect("an id"))));
        for (text, external_id) in
            [("crm-77", "crm-77"), ("external:crm-77", "crm-77"), (&*format!("external:{id}"), id)]
        {
            assert_eq!(read(text), Ok(CampaignName::External(external_id.into())), "{text}");
        }
        assert!(read("").is_err() && read("external:").is_err());
    }
}
