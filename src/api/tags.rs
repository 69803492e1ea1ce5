//! Tags of chats.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Shared, SharedState,
    access::{Access, tag_not_found},
    audit::Audit,
    extract::{JsonBody, TagPath},
    values::{invalid, name},
};
use crate::{
    api_types::{NewTag, Page, TagChangeBody, TagPage, TagView},
    config::KeyScope,
    domain::{BusinessId, DerivedTag, TagId, tag},
    http::problem::{Problem, Result},
    postgres::tags::{Tag, TagChange, TagRefused},
    rules::tagging::{RULES_MAX, TagRule, WORDS_MAX},
};

/// List the tags, the derived ones last, with the number of open chats that have each.
#[utoipa::path(
    get, path = "/v1/tags", tag = "chats", operation_id = "list_tags",
    security(("api_key" = [KeyScope::Chats])),
    responses((status = 200, description = "All tags.", body = TagPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(State(shared): SharedState, access: Access) -> Result<Json<TagPage>> {
    let (database, businesses, visible) = (shared.database()?, access.names(), access.visibility());
    let tags = database.tags(businesses.as_deref(), visible.as_ref()).await?;
    let derived = database.derived_tags(businesses.as_deref(), visible.as_ref(), shared.now()).await?;
    let rows = tags.into_iter().map(tag_view).chain(derived.into_iter().map(derived_view)).collect();
    Ok(Json(Page { rows, next: None }))
}

/// Create a tag.
#[utoipa::path(
    post, path = "/v1/tags", tag = "chats", operation_id = "create_tag",
    security(("api_key" = [KeyScope::Chats])),
    request_body = NewTag,
    responses((status = 201, description = "The tag.", body = TagView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "tag-exists", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewTag>,
) -> Result<(StatusCode, Json<TagView>)> {
    access.check_manager()?;
    let tag = Tag {
        business: shared.business(&access, new.business.as_deref())?,
        id: tag_id(&new.id)?,
        name: name(&new.name)?,
        colour: colour(&new.colour)?,
        rules: checked(new.rules)?,
        chats: 0,
        created_at: shared.now(),
    };
    audit.on(&tag.id);
    match shared.database()?.create_tag(&tag).await? {
        Ok(()) => Ok((StatusCode::CREATED, Json(tag_view(tag)))),
        Err(TagRefused::Exists) => {
            let detail =
                format!("{} has a tag {} already: change it with PATCH /v1/tags/{}", tag.business, tag.id, tag.id);
            Err(Problem::new(StatusCode::CONFLICT, "tag-exists", detail))
        }
        Err(TagRefused::TooMany) => Err(invalid(format!("a business has at most {} tags", tag::TAGS_MAX))),
    }
}

/// Change a tag.
#[utoipa::path(
    patch, path = "/v1/tags/{tag}", tag = "chats", operation_id = "change_tag",
    security(("api_key" = [KeyScope::Chats])),
    params(TagPath),
    request_body = TagChangeBody,
    responses((status = 200, description = "The tag after the change.", body = TagView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    access: Access,
    TagPath { business, tag }: TagPath,
    JsonBody(new): JsonBody<TagChangeBody>,
) -> Result<Json<TagView>> {
    access.check_manager()?;
    let change = TagChange {
        name: new.name.as_deref().map(name).transpose()?,
        colour: new.colour.as_deref().map(colour).transpose()?,
        rules: new.rules.map(checked).transpose()?,
    };
    if !shared.database()?.change_tag(&business, &tag, &change).await? {
        return Err(tag_not_found(&tag));
    }
    shared.tag(&business, &tag).await.map(Json)
}

/// Remove a tag, also from the chats that have it.
#[utoipa::path(
    delete, path = "/v1/tags/{tag}", tag = "chats", operation_id = "remove_tag",
    security(("api_key" = [KeyScope::Chats])),
    params(TagPath),
    responses((status = 204, description = "The tag is removed.")),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found"]))),
)]
pub(super) async fn remove(
    State(shared): SharedState,
    access: Access,
    TagPath { business, tag }: TagPath,
) -> Result<StatusCode> {
    access.check_manager()?;
    match shared.database()?.remove_tag(&business, &tag).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(tag_not_found(&tag)),
    }
}

impl Shared {
    async fn tag(&self, business: &BusinessId, id: &TagId) -> Result<TagView> {
        let tags = self.database()?.tags(Some(&[business.to_string()]), None).await?;
        tags.into_iter().find(|tag| tag.id == *id).map(tag_view).ok_or_else(|| tag_not_found(id))
    }
}

/// The id of a tag that a business defines.
///
/// Errors: 422 if it cannot be one.
pub(super) fn tag_id(text: &str) -> Result<TagId> {
    let detail = "the id of a tag has 1 to 32 of a-z, 0-9, - and _, and is not that of a derived tag";
    tag::tag_id(text).ok_or_else(|| invalid(detail))
}

fn colour(text: &str) -> Result<String> {
    tag::colour(text).ok_or_else(|| invalid("colour has the form #rrggbb"))
}

fn checked(rules: Vec<TagRule>) -> Result<Vec<TagRule>> {
    if rules.len() > RULES_MAX {
        return Err(invalid(format!("a tag has at most {RULES_MAX} rules")));
    }
    match rules.iter().all(|rule| rule.when.words.len() <= WORDS_MAX) {
        true => Ok(rules),
        false => Err(invalid(format!("a rule has at most {WORDS_MAX} words"))),
    }
}

fn tag_view(tag: Tag) -> TagView {
    let Tag { business, id, name, colour, rules, chats, created_at } = tag;
    TagView {
        id: id.to_string(),
        business: Some(business),
        name,
        colour: Some(colour),
        derived: false,
        chats,
        rules,
        created_at: Some(created_at),
    }
}

fn derived_view((tag, chats): (DerivedTag, u64)) -> TagView {
    let name = tag.name().to_owned();
    TagView {
        id: name.clone(),
        business: None,
        name,
        colour: None,
        derived: true,
        chats,
        rules: Vec::new(),
        created_at: None,
    }
}
