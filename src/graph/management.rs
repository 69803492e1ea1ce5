//! Reads from the Graph API: the templates of a WABA, the limits of its lines, and the status of a line. Also lifts the
//! pause of a template.
//!
//! Owns: the shape of those responses. Values that Meta may extend (statuses, ratings) stay text.
//! If the process dies: nothing is lost; reads change nothing. A pause may have been lifted: the template's status
//! shows it.
//! Never: follows the URL of the next page in a response, because the token would be sent wherever that URL points.

use std::{collections::HashSet, fmt, ops::RangeInclusive};

use reqwest::{Method, Url};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{BadToken, GraphClient, answer, client::authorized};
use crate::domain::{BusinessId, LineId, MetaCode, Secret, WabaId, policy};

/// The maximum size of a page: enough for 100 templates with all their text.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Meta's maximum page size (its OpenAPI file v23.0, read 2026-11-22).
const PAGE_ENTRIES: usize = 100;

/// A list is considered endless after this many entries, or this many pages. A WABA may have 6,000 templates.
const ENTRIES_MAX: usize = 100_000;

/// How many times a list is read again from its first page after Meta rejected its own cursor.
const RESTARTS_MAX: usize = 3;

/// Meta's code for an unspecified error. Meta also returns it for a page that is too large: "Please reduce the amount
/// of data you're asking for, then retry your request".
const UNSPECIFIED: MetaCode = MetaCode(1);

/// Meta's code for an expired cursor (v24.0 and later).
const STALE_CURSOR: MetaCode = MetaCode(131_059);

const TEMPLATE_FIELDS: &str =
    "id,name,language,status,rejected_reason,category,sub_category,quality_score,parameter_format,components";

pub(super) const LINE_FIELDS: &str = "id,display_phone_number,verified_name,status,quality_rating,throughput,\
                           whatsapp_business_manager_messaging_limit,health_status";

const LIMIT_FIELDS: &str = "id,throughput,is_on_biz_app,whatsapp_business_manager_messaging_limit";

/// The limits of a line, as returned by Meta.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LineLimits {
    /// The line.
    pub id: LineId,
    /// The throughput level: `STANDARD` or `HIGH`. `None` if Meta returned none.
    #[serde(default, rename = "throughput", deserialize_with = "level")]
    pub level: Option<String>,
    /// Whether the number is also used in the WhatsApp Business app. If absent, the number is not used there.
    #[serde(default, deserialize_with = "flag")]
    pub is_on_biz_app: bool,
    /// The messaging limit of the business, such as `TIER_10K`. `None` if Meta returned none.
    #[serde(rename = "whatsapp_business_manager_messaging_limit")]
    pub messaging_limit: Option<String>,
}

/// The status of a line at Meta. The values are as Meta writes them; `None` if Meta returned none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineInfo {
    /// The phone number, formatted for people. Required: an object without it is not a line.
    pub display_phone_number: String,
    /// The display name that recipients see.
    pub verified_name: Option<String>,
    /// The line's status, such as `CONNECTED` or `FLAGGED`. A line can send in both of these.
    pub status: Option<String>,
    /// The quality rating: `GREEN`, `YELLOW`, `RED` or `NA`.
    pub quality_rating: Option<String>,
    /// The throughput level: `STANDARD` or `HIGH`.
    #[serde(default, rename(deserialize = "throughput"), deserialize_with = "level")]
    pub throughput_level: Option<String>,
    /// The messaging limit of the portfolio, such as `TIER_10K`: to how many people it may send within 24 hours without
    /// a message from them first.
    #[serde(rename(deserialize = "whatsapp_business_manager_messaging_limit"))]
    pub messaging_limit: Option<String>,
    /// Whether the line, its WABA, its business and the app may send.
    #[serde(default, rename(deserialize = "health_status"), deserialize_with = "health")]
    pub health: SendHealth,
}

/// Whether messages can be sent, from Meta's `health_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendHealth {
    /// Messages can be sent.
    Sends,
    /// Something blocks sending.
    Blocked,
    /// Meta returned no health status.
    #[default]
    Unknown,
}

impl GraphClient {
    /// All templates of `waba`, approved or not, as Meta returns them, from all pages.
    ///
    /// # Errors
    /// [`GraphError`]. A partial list is never returned.
    pub async fn templates(&self, waba: &WabaId, token: &Secret) -> Result<Vec<Value>, GraphError> {
        let path = [waba.as_str(), "message_templates"];
        self.list(&Subject::Templates(waba.clone()), path, &[("fields", TEMPLATE_FIELDS)], token).await
    }

    /// The templates of `waba` with this name, in all languages, as [`GraphClient::templates`] returns them. Meta may
    /// also return templates with similar names.
    ///
    /// # Errors
    /// [`GraphError`]
    pub async fn templates_named(&self, waba: &WabaId, token: &Secret, name: &str) -> Result<Vec<Value>, GraphError> {
        let path = [waba.as_str(), "message_templates"];
        let query = [("fields", TEMPLATE_FIELDS), ("name", name)];
        self.list(&Subject::Templates(waba.clone()), path, &query, token).await
    }

    /// The limits of each line of `waba`, from all pages.
    ///
    /// # Errors
    /// [`GraphError`]. A partial list is never returned.
    pub async fn line_limits(&self, waba: &WabaId, token: &Secret) -> Result<Vec<LineLimits>, GraphError> {
        let what = Subject::Lines(waba.clone());
        let lines = self.list(&what, [waba.as_str(), "phone_numbers"], &[("fields", LIMIT_FIELDS)], token).await?;
        let read = |line| {
            serde_json::from_value(line)
                .map_err(|error| GraphError::NotMeta { what: what.clone(), reason: error.to_string() })
        };
        lines.into_iter().map(read).collect()
    }

    /// The whole list at `path`, with this `query`, from all pages. If a page is too large for Meta, it is requested
    /// again with half as many entries, and later pages keep that size.
    pub(super) async fn list(
        &self,
        what: &Subject,
        path: [&str; 2],
        query: &[(&str, &str)],
        token: &Secret,
    ) -> Result<Vec<Value>, GraphError> {
        let no_list = |reason: &str| GraphError::NotMeta { what: what.clone(), reason: reason.to_owned() };
        let (mut entries, mut after, mut seen) = (Vec::new(), None::<String>, HashSet::new());
        let (mut limit, mut restarts, mut pages) = (PAGE_ENTRIES, 0, 0);
        loop {
            let mut url = self.endpoint(path);
            url.query_pairs_mut().extend_pairs(query).append_pair("limit", &limit.to_string());
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after", after);
            }
            let page: Page = match self.read(what, url, token).await {
                Ok(page) => page,
                Err(GraphError::Refused { code: UNSPECIFIED, .. }) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(GraphError::Refused { code: STALE_CURSOR, .. }) if after.is_some() && restarts < RESTARTS_MAX => {
                    restarts += 1;
                    entries.clear();
                    seen.clear();
                    after = None;
                    continue;
                }
                Err(error) => return Err(error),
            };
            entries.extend(page.data);
            pages += 1;
            let next = match page.paging {
                Some(Paging { next: Some(_), cursors: Some(Cursors { after: Some(after) }) }) => after,
                Some(Paging { next: Some(_), .. }) => return Err(no_list("a page has a next page but no cursor")),
                Some(Paging { next: None, .. }) | None => return Ok(entries),
            };
            if !seen.insert(next.clone()) {
                return Err(no_list("the list has no end: the next page of a page was read before"));
            }
            if entries.len().max(pages) > ENTRIES_MAX {
                return Err(no_list(&format!("the list has no end after {ENTRIES_MAX} entries")));
            }
            after = Some(next);
        }
    }

    /// Asks Meta to lift the pause of the template with this id.
    ///
    /// # Errors
    /// [`GraphError`]. Unless Meta refused, the pause may have been lifted.
    pub async fn unpause_template(&self, id: &str, token: &Secret) -> Result<Unpaused, GraphError> {
        let answer: UnpauseAnswer = self
            .call(Method::POST, &Subject::Template(id.to_owned()), self.endpoint([id, "unpause"]), None, token)
            .await?;
        Ok(if answer.success { Unpaused::Done } else { Unpaused::Refused(answer.reason.unwrap_or_default()) })
    }

    /// The status of `line` at Meta. Also serves as a probe whether Meta is reachable and whether the token may
    /// access the line.
    ///
    /// # Errors
    /// [`GraphError`] shows whether Meta was unreachable or refused the call.
    pub async fn line(&self, line: &LineId, token: &Secret) -> Result<LineInfo, GraphError> {
        let mut url = self.endpoint([line.as_str()]);
        url.query_pairs_mut().append_pair("fields", LINE_FIELDS);
        self.read(&Subject::Line(line.clone()), url, token).await
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        what: &Subject,
        url: Url,
        token: &Secret,
    ) -> Result<T, GraphError> {
        self.call(Method::GET, what, url, None, token).await
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        what: &Subject,
        url: Url,
        body: Option<&Value>,
        token: &Secret,
    ) -> Result<T, GraphError> {
        let (http_status, body) = self
            .call_once(method, url, authorized(token)?, body, PAGE_BYTES_MAX)
            .await
            .map_err(|reason| GraphError::Unreachable { what: what.clone(), reason })?;
        if let Some(answer::MetaError { code, details }) = answer::refusal(&body) {
            return Err(GraphError::Refused { what: what.clone(), code, details });
        }
        let not_meta = |reason| GraphError::NotMeta { what: what.clone(), reason };
        if !(200..300).contains(&http_status) {
            return Err(not_meta(answer::not_meta(http_status, &body)));
        }
        serde_json::from_slice(&body).map_err(|error| not_meta(error.to_string()))
    }
}

/// What was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One line.
    Line(LineId),
    /// The WABAs of a business.
    Wabas(BusinessId),
    /// The lines of a WABA.
    Lines(WabaId),
    /// The templates of a WABA.
    Templates(WabaId),
    /// The template with this id.
    Template(String),
    /// The apps subscribed to a WABA.
    Apps(WabaId),
    /// The file with this id.
    Media(String),
    /// The upload of a file for a line.
    Upload(LineId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Line(line) => write!(f, "line {line}"),
            Subject::Wabas(business) => write!(f, "wabas of business {business}"),
            Subject::Lines(waba) => write!(f, "lines of waba {waba}"),
            Subject::Templates(waba) => write!(f, "templates of waba {waba}"),
            Subject::Template(id) => write!(f, "template {id}"),
            Subject::Apps(waba) => write!(f, "apps subscribed to waba {waba}"),
            Subject::Media(id) => write!(f, "file {id}"),
            Subject::Upload(line) => write!(f, "upload of a file for line {line}"),
        }
    }
}

/// Why a read from the Graph API failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// No response, or only a part of one. A retry may succeed.
    #[error("{what}: Meta is not reachable: {reason}; check graph.base_url, DNS and outbound network access")]
    Unreachable {
        /// What was requested.
        what: Subject,
        /// The error and its causes.
        reason: String,
    },
    /// Meta returned an error: about the token, the id or a rate limit.
    #[error("{what}: Meta refused: code {code} ({}): {details}", policy::rule(*code).map_or("unknown", |rule| rule.title))]
    Refused {
        /// What was requested.
        what: Subject,
        /// Meta's code.
        code: MetaCode,
        /// Meta's error text.
        details: String,
    },
    /// The response is not Meta's.
    #[error("{what}: the response is not Meta's: {reason}; check graph.base_url and graph.version")]
    NotMeta {
        /// What was requested.
        what: Subject,
        /// What is wrong with the response.
        reason: String,
    },
    /// The token cannot be sent. No request was made.
    #[error(transparent)]
    BadToken(#[from] BadToken),
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    paging: Option<Paging>,
}

#[derive(Deserialize)]
struct Paging {
    cursors: Option<Cursors>,
    next: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Cursors {
    after: Option<String>,
}

/// Meta's answer to the request to lift a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpaused {
    /// The pause is lifted.
    Done,
    /// The pause stays, for this reason; may be empty.
    Refused(String),
}

#[derive(Deserialize)]
struct UnpauseAnswer {
    success: bool,
    reason: Option<String>,
}

/// Reads the `level` of `{"level":"STANDARD"}`.
fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Throughput {
        level: Option<String>,
    }
    Ok(Option::<Throughput>::deserialize(deserializer)?.and_then(|throughput| throughput.level))
}

/// Reads a flag that may be null.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}

/// Codes about calls and SIP, which do not affect messages.
const CALLING: RangeInclusive<u64> = 138_000..=138_999;

/// Reads `{"can_send_message":"BLOCKED","entities":[…]}`: blocked if an entity is, for another reason than calls.
fn health<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SendHealth, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        can_send_message: Option<String>,
        entities: Vec<Entity>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Entity {
        can_send_message: String,
        errors: Vec<Value>,
    }
    let is_blocked = |entity: &Entity| {
        let about_calls = |error: &Value| error["error_code"].as_u64().is_some_and(|code| CALLING.contains(&code));
        entity.can_send_message == "BLOCKED" && (entity.errors.is_empty() || !entity.errors.iter().all(about_calls))
    };
    let status = Option::<Status>::deserialize(deserializer)?.unwrap_or_default();
    Ok(match status {
        Status { can_send_message: None, .. } => SendHealth::Unknown,
        Status { can_send_message: Some(all), entities } if entities.is_empty() && all == "BLOCKED" => {
            SendHealth::Blocked
        }
        Status { entities, .. } if entities.iter().any(is_blocked) => SendHealth::Blocked,
        Status { .. } => SendHealth::Sends,
    })
}
