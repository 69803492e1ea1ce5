//! Extractors for paths and JSON bodies. They reject a bad request with a [`Problem`].

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, StatusCode, header::IF_MATCH, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use utoipa::{
    IntoParams, PartialSchema as _,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    Shared,
    access::{
        Access, agent_not_found, campaign_not_found, contact_not_found, group_not_found, hold_not_found,
        property_not_found, tag_not_found, template_not_found,
    },
};
use crate::{
    domain::{
        BusinessId, CampaignId, EntryId, GroupId, HoldScope, Language, Line, LineId, MediaId, Phone, SubscriberId,
        TagId, WabaId, agent, reject::json_fault, tag,
    },
    http::{
        problem::{Problem, Result},
        request::{Params, content_coding, expect_media_type, too_slow},
    },
    intake::IntakeError,
    json,
    postgres::{
        agents::Agent, canned_replies::CannedReply, contacts::ContactRecord, inbound_links::InboundLink,
        media::FileRecord, properties::Property, read::Chat,
    },
};

/// The campaign id in the path. The caller may see the campaign, if it exists.
#[derive(IntoParams)]
#[into_params(names("campaign"), parameter_in = Path)]
pub(super) struct CampaignPath(pub(super) CampaignId);

/// The line whose id is in the path. The caller may see it.
#[derive(IntoParams)]
#[into_params(names("line"), parameter_in = Path)]
pub(super) struct LinePath(#[param(value_type = LineId)] pub(super) Line);

/// The id of the dead letter in the path. A key that is limited to businesses sees no dead letters, because the job of
/// one may name any business or none.
#[derive(IntoParams)]
#[into_params(names("dead_letter"), parameter_in = Path)]
pub(super) struct DeadLetterPath(pub(super) EntryId);

/// The id of a hold in the path. A caller that is limited to businesses gets 404 for a hold of another one, and may not
/// lift that of the platform.
#[derive(IntoParams)]
#[into_params(names("hold"), parameter_in = Path)]
pub(super) struct HoldPath(#[param(value_type = String, example = "waba:2001")] pub(super) HoldScope);

/// A template in the path, of a WABA with a configured line. A caller that is limited to businesses gets 404 for the
/// WABA of another one.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TemplatePath {
    /// The WABA.
    pub(super) waba: WabaId,
    /// The name of the template.
    #[param(example = "order_update")]
    pub(super) name: String,
    /// The language of the template.
    #[param(value_type = String, example = "es_AR")]
    pub(super) language: Language,
}

/// The subscriber id in the path. A caller that is limited to businesses gets 404, because a subscriber gets the events
/// of all of them.
#[derive(IntoParams)]
#[into_params(names("subscriber"), parameter_in = Path)]
pub(super) struct SubscriberPath(pub(super) SubscriberId);

/// The campaign id and the phone number in the path of a recipient. The caller may see the campaign, if it exists. The
/// phone number is not parsed yet, and its plus is optional.
#[derive(IntoParams)]
#[into_params(names("campaign", "phone"), parameter_in = Path)]
pub(super) struct RecipientPath(
    pub(super) CampaignId,
    #[param(pattern = "^\\+?[1-9][0-9]{6,14}$", example = "+5491155550001")] pub(super) String,
);

/// The phone number in the path. Its plus is optional.
#[derive(IntoParams)]
#[into_params(names("phone"), parameter_in = Path)]
pub(super) struct PhonePath(
    #[param(value_type = String, pattern = "^\\+?[1-9][0-9]{6,14}$", example = "+5491155550001")] pub(super) Phone,
);

/// The chat whose id is in the path. The caller may see it.
#[derive(IntoParams)]
#[into_params(names("chat"), parameter_in = Path)]
pub(super) struct ChatPath(#[param(value_type = String, example = "204")] pub(super) Chat);

/// The agent whose id is in the path. The caller may see the agent.
#[derive(IntoParams)]
#[into_params(names("agent"), parameter_in = Path)]
pub(super) struct AgentPath(#[param(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")] pub(super) Agent);

/// The group whose id is in the path, and the business that the query names, or the only one that the caller may see.
pub(super) struct GroupPath {
    pub(super) business: BusinessId,
    pub(super) group: GroupId,
}

/// The tag whose id is in the path, and the business that the query names, or the only one that the caller may see.
pub(super) struct TagPath {
    pub(super) business: BusinessId,
    pub(super) tag: TagId,
}

/// The canned reply whose id is in the path. The caller may use it.
#[derive(IntoParams)]
#[into_params(names("reply"), parameter_in = Path)]
pub(super) struct ReplyPath(
    #[param(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")] pub(super) CannedReply,
);

/// The inbound link whose id is in the path. The caller may see it.
#[derive(IntoParams)]
#[into_params(names("link"), parameter_in = Path)]
pub(super) struct LinkPath(
    #[param(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")] pub(super) InboundLink,
);

/// The contact whose id or phone number is in the path. A number has a plus or at least ten digits, and is one of the
/// business that the query names, or of the only one that the caller may see.
pub(super) struct ContactPath(pub(super) ContactRecord);

/// The property whose key is in the path, of the business that the query names, or of the only one that the caller may see.
pub(super) struct PropertyPath(pub(super) Property);

/// Number of digits from which a contact in a path is a phone number.
const PHONE_DIGITS_MIN: usize = 10;

/// The query parameters of a call about something that a business has defined.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BusinessParams {
    /// The business. May be left out if the caller sees only one.
    #[param(nullable = false)]
    business: Option<String>,
}

/// The file whose id is in the path. The caller may see it.
#[derive(IntoParams)]
#[into_params(names("media"), parameter_in = Path)]
pub(super) struct MediaPath(#[param(value_type = MediaId)] pub(super) FileRecord);

/// The revision of the chat that the caller has seen, if the call is to fail for another one.
#[derive(Clone, Copy, Default)]
pub(super) struct IfMatch(pub(super) Option<i64>);

/// A JSON object as the body.
pub(super) struct JsonBody<T>(pub(super) T);

/// A JSON object as the body, or the default if the body is empty.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl FromRequestParts<Arc<Shared>> for CampaignPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        campaign_id(&id, parts, shared).await.map(Self)
    }
}

impl FromRequestParts<Arc<Shared>> for LinePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        shared.line(&access, &id.as_str().into()).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeadLetterPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| no_route(&error))?;
        let malformed =
            |error| Problem::not_found("dead-letter-not-found", format!("there is no dead letter {id}: it is {error}"));
        let id = id.parse().map_err(malformed)?;
        match Access::from_request_parts(parts, state).await?.is_limited() {
            true => Err(IntakeError::NoDeadLetter(id).into()),
            false => Ok(Self(id)),
        }
    }
}

impl FromRequestParts<Arc<Shared>> for HoldPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        let scope: HoldScope = id.parse().map_err(|_| hold_not_found(&id))?;
        if access.allows(shared.business_of(&scope).as_ref()) { Ok(Self(scope)) } else { Err(hold_not_found(&id)) }
    }
}

impl FromRequestParts<Arc<Shared>> for TemplatePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let path = Path::<(String, String, String)>::from_request_parts(parts, shared).await;
        let Path((waba, name, language)) = path.map_err(|error| no_route(&error))?;
        let (waba, language) = (WabaId::from(waba.as_str()), Language::from(language.as_str()));
        let access = Access::from_request_parts(parts, shared).await?;
        match shared.lines(&access).wabas().contains_key(&waba) {
            true => Ok(Self { waba, name, language }),
            false => Err(template_not_found(&waba, &name, &language)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SubscriberPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| no_route(&error))?;
        if Access::from_request_parts(parts, state).await?.is_limited() {
            return Err(subscriber_not_found(&id));
        }
        Ok(Self(id.as_str().into()))
    }
}

impl FromRequestParts<Arc<Shared>> for RecipientPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let path = Path::<(String, String)>::from_request_parts(parts, shared).await;
        let Path((id, phone)) = path.map_err(|error| no_route(&error))?;
        Ok(Self(campaign_id(&id, parts, shared).await?, phone))
    }
}

impl FromRequestParts<Arc<Shared>> for ChatPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        shared.chat(&access, &id).await.map(Self)
    }
}

impl FromRequestParts<Arc<Shared>> for AgentPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        let agent = match id.parse() {
            Ok(id) => shared.database()?.agent(access.names().as_deref(), id).await?,
            Err(_) => None,
        };
        agent.map(Self).ok_or_else(|| agent_not_found(id))
    }
}

impl IntoParams for GroupPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        of_business("group", "The id of the group.")
    }
}

impl IntoParams for TagPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        of_business("tag", "The id of the tag.")
    }
}

impl IntoParams for ContactPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        of_business("contact", "The id of the contact, or its phone number with a plus.")
    }
}

impl IntoParams for PropertyPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        of_business("property", "The key of the property.")
    }
}

impl FromRequestParts<Arc<Shared>> for ContactPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        let database = shared.database()?;
        let id = if text.starts_with('+') || text.len() >= PHONE_DIGITS_MIN {
            let (text, business) = id_of_business(parts, shared).await?;
            let number = phone(text.clone()).map_err(|_| contact_not_found(&text))?;
            let contact = database.contact_of(&business, number.into()).await?;
            contact.ok_or_else(|| contact_not_found(&text))?.id
        } else {
            text.parse().map_err(|_| contact_not_found(&text))?
        };
        let contact = database.contact(access.names().as_deref(), id).await?;
        contact.map(Self).ok_or_else(|| contact_not_found(text))
    }
}

impl FromRequestParts<Arc<Shared>> for PropertyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let (key, business) = id_of_business(parts, shared).await?;
        let properties = shared.database()?.properties(Some(&[business.to_string()])).await?;
        let found = properties.into_iter().find(|property| property.key == key);
        found.map(Self).ok_or_else(|| property_not_found(key))
    }
}

/// The parameters of a call about something that a business has defined.
fn of_business(name: &str, description: &str) -> Vec<Parameter> {
    let id = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
    let id = id.description(Some(description)).schema(Some(String::schema())).build();
    [id].into_iter().chain(BusinessParams::into_params(|| None)).collect()
}

/// The id in the path, and the business that the query names, or the only one that the caller may see.
async fn id_of_business(parts: &mut Parts, shared: &Arc<Shared>) -> Result<(String, BusinessId)> {
    let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
    let access = Access::from_request_parts(parts, shared).await?;
    let Params(params) = Params::<BusinessParams>::from_request_parts(parts, shared).await?;
    Ok((id, shared.business(&access, params.business.as_deref())?))
}

impl FromRequestParts<Arc<Shared>> for TagPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let (id, business) = id_of_business(parts, shared).await?;
        let tag = tag::tag_id(&id).ok_or_else(|| tag_not_found(&id))?;
        Ok(Self { business, tag })
    }
}

impl FromRequestParts<Arc<Shared>> for LinkPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        shared.link(&access, &id).await.map(Self)
    }
}

impl FromRequestParts<Arc<Shared>> for ReplyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        shared.reply(&access, &id).await.map(Self)
    }
}

impl FromRequestParts<Arc<Shared>> for GroupPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let (id, business) = id_of_business(parts, shared).await?;
        let group = agent::group_id(&id).ok_or_else(|| group_not_found(&id))?;
        Ok(Self { business, group })
    }
}

impl FromRequestParts<Arc<Shared>> for MediaPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        let Path(id) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| no_route(&error))?;
        let access = Access::from_request_parts(parts, shared).await?;
        shared.file(&access, &id).await.map(Self)
    }
}

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Only if the chat still has this revision: its `ETag`. Otherwise 412.";
        let parameter = ParameterBuilder::new().name("If-Match").parameter_in(ParameterIn::Header);
        vec![parameter.required(Required::False).description(Some(description)).schema(Some(String::schema())).build()]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Some(value) = parts.headers.get(IF_MATCH) else { return Ok(Self(None)) };
        let revision = value.to_str().ok().and_then(|tag| match tag {
            "*" => Some(None),
            tag => tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok().map(Some),
        });
        let detail = "If-Match is the ETag of the chat, such as \"7\"";
        revision.map(Self).ok_or_else(|| Problem::bad_request("invalid-if-match", detail))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PhonePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| no_route(&error))?;
        phone(text).map(Self)
    }
}

/// A phone number in a path, with or without its plus.
///
/// Errors: 400 if it is not a number in E.164.
pub(super) fn phone(text: String) -> Result<Phone> {
    let number = if text.starts_with('+') { text } else { format!("+{text}") };
    number.parse().map_err(|_| {
        Problem::bad_request("invalid-phone", "the phone in the path is not a number in E.164, such as +5491155550001")
    })
}

/// A malformed id is reported as not found, and so is that of a campaign which the caller may not see.
async fn campaign_id(text: &str, parts: &mut Parts, shared: &Arc<Shared>) -> Result<CampaignId> {
    let id = text.parse().map_err(|_| campaign_not_found(text))?;
    let access = Access::from_request_parts(parts, shared).await?;
    shared.check_campaign(&access, id).await?;
    Ok(id)
}

/// 404 for the subscriber `id`.
pub(super) fn subscriber_not_found(id: impl std::fmt::Display) -> Problem {
    Problem::not_found("subscriber-not-found", format!("there is no subscriber {id} in the configuration"))
}

fn no_route(error: &impl std::fmt::Display) -> Problem {
    Problem::not_found("not-found", error.to_string())
}

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self> {
        check_json_headers(request.headers())?;
        json_object(&whole_body(request, shared).await?).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<Shared>> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self> {
        let headers = request.headers().clone();
        let body = whole_body(request, shared).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        check_json_headers(&headers)?;
        json_object(&body).map(Self)
    }
}

fn check_json_headers(headers: &HeaderMap) -> Result<()> {
    expect_media_type(headers, &["application/json"])?;
    content_coding(headers, &[]).map(drop)
}

async fn whole_body(request: Request, shared: &Arc<Shared>) -> Result<Bytes> {
    let limit = shared.state.stall_timeout;
    let body = timeout(limit, Bytes::from_request(request, shared)).await.map_err(|_| too_slow(limit))?;
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!(
                "the body is longer than {} bytes (http.body_bytes_max); upload large numbers of recipients with POST \
                 /v1/campaigns/{{id}}/recipients",
                shared.state.body_bytes_max
            ),
        ),
        _ => Problem::bad_request("body-cut", format!("the body could not be read: {}", rejection.body_text())),
    })
}

fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = json::object(&mut reader).and_then(|object| reader.end().map(|()| object));
    read.map_err(|error| {
        let why = json_fault(&error);
        Problem::bad_request("malformed-body", format!("the body can't be read: {why}"))
    })
}
