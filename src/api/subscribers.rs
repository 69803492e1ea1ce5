//! Subscribers: what was delivered to them, and two actions of an operator: deliver again, and enable.
//!
//! Both actions take effect on a delivery in flight: its result is not stored.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::Access,
    audit::Audit,
    extract::{SubscriberPath, subscriber_not_found},
};
use crate::{
    api_types::{Page, SubscriberPage, SubscriberView},
    config::KeyScope,
    domain::{SubscriberId, UnixMs},
    http::{
        page::{self, PageParams},
        problem::Result,
        request::{Params, bad_query},
    },
    redis::{
        feed::FeedLimits,
        position::Position,
        subscribers::{FeedLag, SubscriberRecord},
    },
    subscribers::Subscriber,
};

/// List subscribers, in the order of the configuration.
#[utoipa::path(
    get, path = "/v1/subscribers", tag = "subscribers", operation_id = "list_subscribers",
    security(("api_key" = [KeyScope::Read])),
    params(PageParams),
    responses((status = 200, description = "A page of subscribers.", body = SubscriberPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<PageParams>,
) -> Result<Json<SubscriberPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    // A subscriber gets the events of all businesses, so it does not exist for a caller that is limited to some.
    let all = shared.state.subscribers.get();
    let subscribers: &[Subscriber] = if access.is_limited() { &[] } else { &all };
    let from = match page::non_empty(params.cursor.as_deref()) {
        None => 0,
        Some(id) => match subscribers.iter().position(|subscriber| subscriber.id.as_str() == id) {
            Some(last) => last + 1,
            None => return Err(page::bad_cursor()),
        },
    };
    let page = &subscribers[from..subscribers.len().min(from + limit)];
    let next = page.last().filter(|_| from + page.len() < subscribers.len()).map(|last| last.id.to_string());
    Ok(Json(Page { rows: shared.subscriber_views(page).await?, next }))
}

/// The query parameters of a repeated delivery.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RedeliverParams {
    /// Where the deliveries continue: after this position in the feed, or from this time on (RFC 3339). 0 starts with
    /// the oldest event that is kept.
    #[param(example = "2026-11-22T18:00:00Z")]
    from: String,
}

/// Deliver events to a subscriber again.
///
/// Moves the position of the subscriber back. A position that is not before the present one changes nothing.
/// Repeated events have the same ids as before.
#[utoipa::path(
    post, path = "/v1/subscribers/{subscriber}/redeliver", tag = "subscribers", operation_id = "redeliver",
    security(("api_key" = [KeyScope::Operate])),
    params(SubscriberPath, RedeliverParams),
    responses((status = 200, description = "The subscriber after the change.", body = SubscriberView)),
)]
pub(super) async fn redeliver(
    State(shared): SharedState,
    audit: Audit,
    SubscriberPath(id): SubscriberPath,
    Params(params): Params<RedeliverParams>,
) -> Result<Json<SubscriberView>> {
    let (subscriber, feed) = shared.subscriber(&id)?;
    let store = &shared.state.store;
    let from = match Position::parse(&params.from, feed) {
        Ok(position) => position,
        Err(error) => match UnixMs::parse(&params.from) {
            Some(time) => store.position_at(feed, time).await?,
            None => {
                return Err(bad_query(format!("from is {}; as a position {error}; a time is RFC 3339", params.from)));
            }
        },
    };
    let present = match store.subscribers(&[&id]).await?.pop().flatten() {
        Some(record) => record.position,
        None => store.newest_position(feed).await?,
    };
    // The position can only rise meanwhile, so the earlier of the two is not ahead of it.
    let earlier = present.clone().earlier(from);
    let is_changed = earlier != present;
    if is_changed {
        store.set_position(&id, &earlier).await?;
    }
    audit.changed(is_changed);
    shared.subscriber_view(&subscriber).await
}

/// Enable a subscriber that was disabled.
///
/// The deliveries continue after its position. If later events were removed meanwhile, `feed.gap` is delivered in their
/// place. For a subscriber that is enabled, the call changes nothing.
#[utoipa::path(
    post, path = "/v1/subscribers/{subscriber}/enable", tag = "subscribers", operation_id = "enable_subscriber",
    security(("api_key" = [KeyScope::Operate])),
    params(SubscriberPath),
    responses((status = 200, description = "The subscriber after the change.", body = SubscriberView)),
)]
pub(super) async fn enable(
    State(shared): SharedState,
    audit: Audit,
    SubscriberPath(id): SubscriberPath,
) -> Result<Json<SubscriberView>> {
    let (subscriber, _) = shared.subscriber(&id)?;
    let stored = shared.state.store.subscribers(&[&id]).await?.pop().flatten();
    let is_disabled = stored.is_some_and(|record| record.disabled_because.is_some());
    if is_disabled {
        shared.state.store.enable_subscriber(&id).await?;
    }
    audit.changed(is_disabled);
    shared.subscriber_view(&subscriber).await
}

fn view(subscriber: &Subscriber, record: Option<SubscriberRecord>, lag: FeedLag, now: UnixMs) -> SubscriberView {
    let position = record.as_ref().map(|record| record.position.to_string());
    let (failing_since, last_error, disabled_because) =
        record.map(|record| (record.failing_since, record.last_error, record.disabled_because)).unwrap_or_default();
    SubscriberView {
        id: subscriber.id.clone(),
        url: subscriber.endpoint.url.to_string(),
        types: subscriber.types().to_vec(),
        batch: subscriber.batch,
        enabled: disabled_because.is_none(),
        position,
        lag_events: lag.events,
        lag_seconds: lag.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()),
        failing_since,
        last_error,
        disabled_because,
    }
}

impl Shared {
    /// A configured subscriber, and the feed.
    fn subscriber(&self, id: &SubscriberId) -> Result<(Subscriber, FeedLimits)> {
        let subscriber = self.state.subscribers.get().iter().find(|subscriber| subscriber.id == *id).cloned();
        // There is a feed if there are subscribers.
        subscriber.zip(self.state.store.feed()).ok_or_else(|| subscriber_not_found(id))
    }

    async fn subscriber_view(&self, subscriber: &Subscriber) -> Result<Json<SubscriberView>> {
        let mut views = self.subscriber_views(std::slice::from_ref(subscriber)).await?;
        Ok(Json(views.pop().expect("a view for each subscriber")))
    }

    async fn subscriber_views(&self, subscribers: &[Subscriber]) -> Result<Vec<SubscriberView>> {
        let (store, now) = (&self.state.store, self.now());
        let ids: Vec<&SubscriberId> = subscribers.iter().map(|subscriber| &subscriber.id).collect();
        let mut views = Vec::with_capacity(subscribers.len());
        for (subscriber, record) in subscribers.iter().zip(store.subscribers(&ids).await?) {
            let lag = match (&record, store.feed()) {
                (Some(record), Some(feed)) => store.feed_lag(feed, &record.position).await?,
                _ => FeedLag::default(),
            };
            views.push(view(subscriber, record, lag, now));
        }
        Ok(views)
    }
}
