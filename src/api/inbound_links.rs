//! Links with an opening text, and their pictures.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use fast_qr::{QRBuilder, convert::svg::SvgBuilder};
use ulid::Ulid;

use super::{
    Shared, SharedState,
    access::{Access, link_not_found},
    audit::Audit,
    extract::{JsonBody, LinkPath},
    tags::tag_id,
    values::{group_id, invalid, name},
};
use crate::{
    api_types::{InboundLinkChangeBody, InboundLinkPage, InboundLinkView, NewInboundLink, Page},
    config::KeyScope,
    domain::InboundLinkId,
    http::problem::{Problem, Result},
    postgres::inbound_links::{InboundLink, InboundLinkChange, InboundLinkRefused, LINKS_MAX},
    rules::inbound_links::is_recognisable,
};

/// Maximum length of an opening text, in characters.
const OPENING_CHARS_MAX: usize = 500;

/// List the inbound links.
#[utoipa::path(
    get, path = "/v1/inbound-links", tag = "chats", operation_id = "list_inbound_links",
    security(("api_key" = [KeyScope::Chats])),
    responses((status = 200, description = "All links.", body = InboundLinkPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(State(shared): SharedState, access: Access) -> Result<Json<InboundLinkPage>> {
    let links = shared.database()?.inbound_links(access.names().as_deref(), None).await?;
    Ok(Json(Page { rows: links.into_iter().map(|link| shared.link_view(link)).collect(), next: None }))
}

/// Create an inbound link: a text that people send to a line by following it.
#[utoipa::path(
    post, path = "/v1/inbound-links", tag = "chats", operation_id = "create_inbound_link",
    security(("api_key" = [KeyScope::Chats])),
    request_body = NewInboundLink,
    responses((status = 201, description = "The link.", body = InboundLinkView)),
    extensions(("x-problems" = json!(["no-database", "line-not-found", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewInboundLink>,
) -> Result<(StatusCode, Json<InboundLinkView>)> {
    access.check_manager()?;
    let line = shared.line(&access, &new.line.as_str().into())?;
    let link = InboundLink {
        id: InboundLinkId(Ulid::from_parts(shared.now().0, rand::random())),
        business: line.business,
        line: line.id,
        name: name(&new.name)?,
        opening: opening(new.opening)?,
        group: new.group.as_deref().map(group_id).transpose()?,
        tags: new.tags.iter().map(|tag| tag_id(tag)).collect::<Result<_>>()?,
        opened: 0,
        created_at: shared.now(),
    };
    shared.database()?.create_inbound_link(&link).await?.map_err(|refused| refusal(link.id, refused))?;
    audit.on(link.id);
    Ok((StatusCode::CREATED, Json(shared.link_view(link))))
}

/// Change an inbound link.
///
/// Who sends the former opening text is not recognised any more.
#[utoipa::path(
    patch, path = "/v1/inbound-links/{link}", tag = "chats", operation_id = "change_inbound_link",
    security(("api_key" = [KeyScope::Chats])),
    params(LinkPath),
    request_body = InboundLinkChangeBody,
    responses((status = 200, description = "The link after the change.", body = InboundLinkView)),
    extensions(("x-problems" = json!(["no-database", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    access: Access,
    LinkPath(link): LinkPath,
    JsonBody(new): JsonBody<InboundLinkChangeBody>,
) -> Result<Json<InboundLinkView>> {
    access.check_manager()?;
    let change = InboundLinkChange {
        name: new.name.as_deref().map(name).transpose()?,
        opening: new.opening.map(opening).transpose()?,
        group: new.group.as_deref().map(group_id).transpose()?,
        tags: match new.tags {
            Some(tags) => Some(tags.iter().map(|tag| tag_id(tag)).collect::<Result<_>>()?),
            None => None,
        },
    };
    let changed = shared.database()?.change_inbound_link(&link.business, link.id, &change).await?;
    changed.map_err(|refused| refusal(link.id, refused))?;
    let link = shared.link(&access, &link.id.to_string()).await?;
    Ok(Json(shared.link_view(link)))
}

/// Remove an inbound link. The chats that it opened stay.
#[utoipa::path(
    delete, path = "/v1/inbound-links/{link}", tag = "chats", operation_id = "remove_inbound_link",
    security(("api_key" = [KeyScope::Chats])),
    params(LinkPath),
    responses((status = 204, description = "The link is removed.")),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn remove(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    LinkPath(link): LinkPath,
) -> Result<StatusCode> {
    access.check_manager()?;
    audit.changed(shared.database()?.remove_inbound_link(link.id).await?);
    Ok(StatusCode::NO_CONTENT)
}

/// Get the QR code of an inbound link.
#[utoipa::path(
    get, path = "/v1/inbound-links/{link}/qr.svg", tag = "chats", operation_id = "get_inbound_link_qr",
    security(("api_key" = [KeyScope::Chats])),
    params(LinkPath),
    responses((status = 200, description = "The code.", body = String, content_type = "image/svg+xml")),
    extensions(("x-problems" = json!(["no-database", "line-without-number"]))),
)]
pub(super) async fn qr(
    State(shared): SharedState,
    LinkPath(link): LinkPath,
) -> Result<([(HeaderName, &'static str); 1], String)> {
    let line = link.line.clone();
    let url = shared.link_view(link).url.ok_or_else(|| {
        let detail = format!("the configuration has no number of line {line}: set its `display`");
        Problem::new(StatusCode::CONFLICT, "line-without-number", detail)
    })?;
    let code = QRBuilder::new(url).build();
    let code = code.map_err(|error| Problem::internal(&format!("a QR code cannot be drawn: {error:?}")))?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], SvgBuilder::default().to_str(&code)))
}

impl Shared {
    /// The link `id`.
    ///
    /// Errors: 404 if the caller may not see it, or if it does not exist.
    pub(super) async fn link(&self, access: &Access, id: &str) -> Result<InboundLink> {
        let missing = || link_not_found(id);
        let known: InboundLinkId = id.parse().map_err(|_| missing())?;
        let found = self.database()?.inbound_links(access.names().as_deref(), Some(known)).await?;
        found.into_iter().next().ok_or_else(missing)
    }

    fn link_view(&self, link: InboundLink) -> InboundLinkView {
        let InboundLink { id, business, line, name, opening, group, tags, opened, created_at } = link;
        let lines = self.state.lines.get();
        let digits = lines.by_id(&line).map(|line| line.display.chars().filter(char::is_ascii_digit).collect());
        let url = digits.filter(|digits: &String| !digits.is_empty()).and_then(|digits| wa_me(&digits, &opening));
        let tags = tags.iter().map(ToString::to_string).collect();
        InboundLinkView { id, business, line, name, opening, group, tags, url, opened, created_at }
    }
}

/// The link that writes a text to a number.
///
/// Source: <https://faq.whatsapp.com/5913398998672934>, read 2026-12-01.
fn wa_me(digits: &str, text: &str) -> Option<String> {
    let url = reqwest::Url::parse_with_params(&format!("https://wa.me/{digits}"), [("text", text)]).ok()?;
    // A plus is a space only in forms.
    Some(url.as_str().replace('+', "%20"))
}

fn opening(text: String) -> Result<String> {
    if !(1..=OPENING_CHARS_MAX).contains(&text.chars().count()) || !is_recognisable(&text) {
        return Err(invalid(format!("opening has 1 to {OPENING_CHARS_MAX} characters, and a letter or a digit")));
    }
    Ok(text)
}

fn refusal(id: InboundLinkId, refused: InboundLinkRefused) -> Problem {
    match refused {
        InboundLinkRefused::Missing => link_not_found(id),
        InboundLinkRefused::NoGroup(group) => invalid(format!("the business has no group {group}")),
        InboundLinkRefused::NoTag(tag) => invalid(format!("the business has no tag {tag}")),
        InboundLinkRefused::TooMany => invalid(format!("a business has at most {LINKS_MAX} links")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_its_text_as_it_is() {
        let url = wa_me("5491155550001", "Hola, quiero 50% + información & más");
        assert_eq!(
            url.as_deref(),
            Some("https://wa.me/5491155550001?text=Hola%2C%20quiero%2050%25%20%2B%20informaci%C3%B3n%20%26%20m%C3%A1s")
        );
    }
}
