//! Contacts: the people who write, and those that somebody adds.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::{Access, contact_not_found},
    audit::Audit,
    chats::contact_view,
    extract::{ContactPath, JsonBody},
    tags::tag_id,
    values::{invalid, name, search},
};
use crate::{
    api_types::{ContactChangeBody, ContactDetails, ContactPage, ContactStatisticsView, NewContact, Page},
    config::KeyScope,
    domain::{BusinessId, TagId, property},
    http::{
        page,
        problem::{Problem, Result},
        request::{Params, bad_query},
    },
    postgres::{
        contacts::{ContactChange, ContactFilter, ContactOrder, ContactRecord, ContactRefused, Statistic},
        properties::Property,
        read::Contact,
        statistics::ContactStatistics,
    },
};

/// The query parameters of the list of contacts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ContactListParams {
    /// The business. May be left out if the caller sees only one.
    #[param(nullable = false)]
    business: Option<String>,
    /// Only contacts with all of these words, or words that begin with them, in name, username or number.
    #[param(nullable = false, example = "maria")]
    search: Option<String>,
    /// Only contacts with this tag.
    #[param(nullable = false)]
    tag: Option<String>,
    /// `created`, `name`, or the name of one of the `statistics`; with a minus in front, in reverse.
    #[param(nullable = false, default = "-created")]
    sort: Option<String>,
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// `property.KEY=VALUE`: only contacts with this value.
    #[serde(flatten)]
    #[param(ignore)]
    others: BTreeMap<String, String>,
}

/// List contacts.
///
/// `property.KEY=VALUE` lists only those with this value of a property.
#[utoipa::path(
    get, path = "/v1/contacts", tag = "contacts", operation_id = "list_contacts",
    security(("api_key" = [KeyScope::Contacts])),
    params(ContactListParams),
    responses((status = 200, description = "A page of contacts.", body = ContactPage)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<ContactListParams>,
) -> Result<Json<ContactPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let filter = shared.contact_filter(&access, params).await?;
    let mut contacts = shared.database()?.contacts(&filter, limit + 1).await?;
    let has_more = contacts.len() > limit;
    contacts.truncate(limit);
    let next = contacts.last().filter(|_| has_more);
    let next = next.map(|last| BASE64_URL_SAFE_NO_PAD.encode(json!(place(last, filter.order)).to_string()));
    let known = shared.property_keys(&filter.business).await?;
    Ok(Json(Page { rows: contacts.into_iter().map(|contact| details(contact, &known)).collect(), next }))
}

/// Create a contact.
#[utoipa::path(
    post, path = "/v1/contacts", tag = "contacts", operation_id = "create_contact",
    security(("api_key" = [KeyScope::Contacts])),
    request_body = NewContact,
    responses((status = 201, description = "The contact.", body = ContactDetails)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "contact-exists", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewContact>,
) -> Result<(StatusCode, Json<ContactDetails>)> {
    let business = shared.business(&access, new.business.as_deref())?;
    let given = ContactChange {
        name: new.name.as_deref().map(name).transpose()?,
        properties: shared.checked_properties(&business, new.properties).await?,
        tags: Some(new.tags.iter().map(|tag| tag_id(tag)).collect::<Result<_>>()?),
    };
    let created = shared.database()?.create_contact(&business, new.phone, &given, shared.now()).await?;
    let id = created.map_err(refusal)?;
    audit.on(id);
    Ok((StatusCode::CREATED, Json(shared.details(&business, id).await?)))
}

/// Get a contact, by its id or its phone number.
///
/// A number has a plus in front, or at least ten digits.
#[utoipa::path(
    get, path = "/v1/contacts/{contact}", tag = "contacts", operation_id = "get_contact",
    security(("api_key" = [KeyScope::Contacts])),
    params(ContactPath),
    responses((status = 200, description = "The contact.", body = ContactDetails)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found"]))),
)]
pub(super) async fn one(State(shared): SharedState, ContactPath(contact): ContactPath) -> Result<Json<ContactDetails>> {
    shared.details(&contact.business, contact.id).await.map(Json)
}

/// Change a contact.
#[utoipa::path(
    patch, path = "/v1/contacts/{contact}", tag = "contacts", operation_id = "change_contact",
    security(("api_key" = [KeyScope::Contacts])),
    params(ContactPath),
    request_body = ContactChangeBody,
    responses((status = 200, description = "The contact after the change.", body = ContactDetails)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    audit: Audit,
    ContactPath(contact): ContactPath,
    JsonBody(new): JsonBody<ContactChangeBody>,
) -> Result<Json<ContactDetails>> {
    audit.on(contact.id);
    let (removed, values): (Map<_, _>, Map<_, _>) = new.properties.into_iter().partition(|(_, value)| value.is_null());
    let mut properties = shared.checked_properties(&contact.business, values).await?;
    properties.extend(removed);
    let tags = match new.tags {
        Some(tags) => Some(tags.iter().map(|tag| tag_id(tag)).collect::<Result<_>>()?),
        None => None,
    };
    let change = ContactChange { name: new.name.as_deref().map(name).transpose()?, properties, tags };
    shared.database()?.change_contact(&contact.business, contact.id, &change).await?.map_err(refusal)?;
    shared.details(&contact.business, contact.id).await.map(Json)
}

/// The position after a contact in an order.
pub(super) fn place(last: &ContactRecord, order: ContactOrder) -> (Value, i64) {
    let value = match order {
        ContactOrder::Created => json!(last.created_at.0),
        ContactOrder::Name => json!(last.name.as_deref().unwrap_or_default()),
        ContactOrder::Statistic(statistic) => json!(statistic.of(&last.statistics)),
    };
    (value, last.id)
}

impl Shared {
    /// Which contacts a list or an export has.
    pub(super) async fn contact_filter(&self, access: &Access, params: ContactListParams) -> Result<ContactFilter> {
        let business = self.business(access, params.business.as_deref())?;
        let mut properties = Map::new();
        for (parameter, value) in params.others {
            let key = parameter.strip_prefix("property.");
            let key = key.ok_or_else(|| bad_query(format!("there is no parameter {parameter}")))?;
            properties.insert(key.to_owned(), Value::from(value));
        }
        let (order, is_descending) = order(page::non_empty(params.sort.as_deref()).unwrap_or("-created"))?;
        Ok(ContactFilter {
            search: search(params.search.as_deref())?,
            tag: page::non_empty(params.tag.as_deref()).map(TagId::from),
            properties: self.checked_properties(&business, properties).await?,
            order,
            is_descending,
            after: page::non_empty(params.cursor.as_deref()).map(after).transpose()?,
            business,
        })
    }

    async fn details(&self, business: &BusinessId, id: i64) -> Result<ContactDetails> {
        let contact = self.database()?.contact(Some(&[business.to_string()]), id).await?;
        let contact = contact.ok_or_else(|| contact_not_found(id))?;
        Ok(details(contact, &self.property_keys(business).await?))
    }

    pub(super) async fn defined(&self, business: &BusinessId) -> Result<Vec<Property>> {
        Ok(self.database()?.properties(Some(&[business.to_string()])).await?)
    }

    async fn property_keys(&self, business: &BusinessId) -> Result<Vec<String>> {
        Ok(self.defined(business).await?.into_iter().map(|property| property.key).collect())
    }

    /// The canonical form of values of properties.
    ///
    /// Errors: 422 with everything that is wrong.
    async fn checked_properties(
        &self,
        business: &BusinessId,
        values: Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        if values.is_empty() {
            return Ok(values);
        }
        let defined = self.defined(business).await?;
        let (mut checked, mut problems) = (Map::new(), Vec::new());
        for (key, value) in values {
            match defined.iter().find(|property| property.key == key) {
                None => problems.push(format!("{business} has no property {key}")),
                Some(known) => match property::canonical(known.kind, &known.choices, &value) {
                    Ok(value) => drop(checked.insert(key, value)),
                    Err(what) => problems.push(format!("property {key} {what}")),
                },
            }
        }
        if problems.is_empty() {
            return Ok(checked);
        }
        Err(invalid("values of properties are invalid; `problems` lists them").with_problems(problems))
    }
}

fn order(text: &str) -> Result<(ContactOrder, bool)> {
    let (text, is_descending) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    match text {
        "created" => Ok((ContactOrder::Created, is_descending)),
        "name" => Ok((ContactOrder::Name, is_descending)),
        _ => match Statistic::ALL.into_iter().find(|statistic| statistic.name() == text) {
            Some(statistic) => Ok((ContactOrder::Statistic(statistic), is_descending)),
            None => {
                let names = Statistic::ALL.map(Statistic::name).join(", ");
                let detail =
                    format!("sort is {text}; it is created, name, {names}, with a minus in front for the reverse");
                Err(bad_query(detail))
            }
        },
    }
}

/// The position after a contact.
fn after(cursor: &str) -> Result<(Value, i64)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| page::bad_cursor())?;
    serde_json::from_slice(&bytes).map_err(|_| page::bad_cursor())
}

fn refusal(refused: ContactRefused) -> Problem {
    match refused {
        ContactRefused::Exists(id) => {
            let detail = format!("the business has this number as contact {id}: PATCH /v1/contacts/{id} changes it");
            Problem::new(StatusCode::CONFLICT, "contact-exists", detail)
        }
        ContactRefused::Missing => contact_not_found("with this id"),
        ContactRefused::NoTag(tag) => invalid(format!("the business has no tag {tag}: GET /v1/tags lists the tags")),
    }
}

/// A contact with the values of the properties that there are.
fn details(contact: ContactRecord, known: &[String]) -> ContactDetails {
    let ContactRecord { id, business, number, user_id, name, username, properties, tags, created_at, statistics } =
        contact;
    let contact = contact_view(Contact { id, business, number, user_id, name, username, created_at });
    let properties = properties.into_iter().filter(|(key, _)| known.contains(key)).collect();
    let tags = tags.iter().map(ToString::to_string).collect();
    ContactDetails { contact, properties, tags, statistics: statistics_view(statistics) }
}

fn statistics_view(statistics: ContactStatistics) -> ContactStatisticsView {
    let ContactStatistics {
        last_interaction,
        conversations_by_client,
        conversations_by_business,
        cancelled,
        received,
        replies,
        failures,
    } = statistics;
    ContactStatisticsView {
        last_interaction,
        conversations_by_client,
        conversations_by_business,
        cancelled,
        received,
        replies,
        failures,
    }
}
