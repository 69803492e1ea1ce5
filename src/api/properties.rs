//! The properties that a business defines for its contacts.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    SharedState,
    access::{Access, property_not_found},
    audit::Audit,
    extract::{JsonBody, PropertyPath},
    values::{invalid, name},
};
use crate::{
    api_types::{NewProperty, Page, PropertyChangeBody, PropertyPage, PropertyView},
    config::KeyScope,
    domain::property::{self, CHOICES_MAX, PROPERTIES_MAX, PropertyKind},
    http::problem::{Problem, Result},
    postgres::properties::{Property, PropertyRefused},
};

/// List the properties of contacts.
#[utoipa::path(
    get, path = "/v1/properties", tag = "contacts", operation_id = "list_properties",
    security(("api_key" = [KeyScope::Contacts])),
    responses((status = 200, description = "All properties.", body = PropertyPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(State(shared): SharedState, access: Access) -> Result<Json<PropertyPage>> {
    let properties = shared.database()?.properties(access.names().as_deref()).await?;
    Ok(Json(Page { rows: properties.into_iter().map(view).collect(), next: None }))
}

/// Create a property of contacts.
#[utoipa::path(
    post, path = "/v1/properties", tag = "contacts", operation_id = "create_property",
    security(("api_key" = [KeyScope::Contacts])),
    request_body = NewProperty,
    responses((status = 201, description = "The property.", body = PropertyView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "property-exists", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewProperty>,
) -> Result<(StatusCode, Json<PropertyView>)> {
    access.check_manager()?;
    let kind = PropertyKind::named(&new.kind);
    let kind = kind.ok_or_else(|| invalid("type is text, number, date, boolean, choice, email or url"))?;
    let property = Property {
        business: shared.business(&access, new.business.as_deref())?,
        key: property::key(&new.key)
            .ok_or_else(|| {
                invalid("key has 1 to 32 of a-z, 0-9, - and _, and is not that of a field or a statistic of contacts")
            })?
            .to_owned(),
        label: name(&new.label)?,
        kind,
        choices: choices(kind, new.choices)?,
        created_at: shared.now(),
    };
    audit.on(&property.key);
    match shared.database()?.create_property(&property).await? {
        Ok(()) => Ok((StatusCode::CREATED, Json(view(property)))),
        Err(PropertyRefused::Exists) => {
            let detail = format!("{} has a property {} already", property.business, property.key);
            Err(Problem::new(StatusCode::CONFLICT, "property-exists", detail))
        }
        Err(PropertyRefused::TooMany) => Err(invalid(format!("a business has at most {PROPERTIES_MAX} properties"))),
    }
}

/// Change the label or the choices of a property.
#[utoipa::path(
    patch, path = "/v1/properties/{property}", tag = "contacts", operation_id = "change_property",
    security(("api_key" = [KeyScope::Contacts])),
    params(PropertyPath),
    request_body = PropertyChangeBody,
    responses((status = 200, description = "The property after the change.", body = PropertyView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    access: Access,
    PropertyPath(property): PropertyPath,
    JsonBody(new): JsonBody<PropertyChangeBody>,
) -> Result<Json<PropertyView>> {
    access.check_manager()?;
    let label = new.label.as_deref().map(name).transpose()?;
    let choices = new.choices.map(|texts| choices(property.kind, texts)).transpose()?;
    let (business, key) = (&property.business, &property.key);
    if !shared.database()?.change_property(business, key, label.as_deref(), choices.as_deref()).await? {
        return Err(property_not_found(key));
    }
    let (label, choices) = (label.unwrap_or(property.label), choices.unwrap_or(property.choices));
    Ok(Json(view(Property { label, choices, ..property })))
}

/// Remove a property. Its values are not shown any more.
#[utoipa::path(
    delete, path = "/v1/properties/{property}", tag = "contacts", operation_id = "remove_property",
    security(("api_key" = [KeyScope::Contacts])),
    params(PropertyPath),
    responses((status = 204, description = "The property is removed.")),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found"]))),
)]
pub(super) async fn remove(
    State(shared): SharedState,
    access: Access,
    PropertyPath(property): PropertyPath,
) -> Result<StatusCode> {
    access.check_manager()?;
    match shared.database()?.remove_property(&property.business, &property.key).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(property_not_found(&property.key)),
    }
}

fn choices(kind: PropertyKind, texts: Vec<String>) -> Result<Vec<String>> {
    let texts: Vec<String> = texts.iter().map(|text| name(text)).collect::<Result<_>>()?;
    match (kind, texts.len()) {
        (PropertyKind::Choice, 1..=CHOICES_MAX) | (_, 0) if kind != PropertyKind::Choice || !texts.is_empty() => {
            Ok(texts)
        }
        (PropertyKind::Choice, _) => Err(invalid(format!("choices has 1 to {CHOICES_MAX} texts"))),
        _ => Err(invalid("only a property of the type choice has choices")),
    }
}

fn view(property: Property) -> PropertyView {
    let Property { business, key, label, kind, choices, created_at } = property;
    PropertyView { key, business, label, kind: kind.name().to_owned(), choices, created_at }
}
