//! `pregon campaign watch`: follows a campaign until it is completed or cancelled.

use super::{CommandError, out, progress::CampaignProgress, reconnect::Reconnect, table};
use crate::{
    api_types::{CampaignView, Statistics},
    client::{CampaignEvent, Client, Known},
    domain::{CampaignId, CampaignState},
    telemetry::clock,
};

/// Shows the progress of a campaign until it is completed or cancelled, and then its final state.
pub async fn watch(client: &Client, id: CampaignId, json: bool) -> Result<(), CommandError> {
    if json {
        follow(client, id, |statistics| Ok(out::json(statistics)?)).await?;
        return Ok(());
    }
    let mut view: Option<CampaignProgress> = None;
    let ended = follow(client, id, |statistics| {
        let view = view.get_or_insert_with(|| CampaignProgress::new(statistics.recipients));
        Ok(view.update(statistics)?)
    })
    .await;
    if let Some(view) = view {
        view.finish()?;
    }
    Ok(out::line(&format!("\n{}", table::campaign(&*ended?, clock::now())))?)
}

/// Calls `show` with the statistics each time they change, and returns the campaign once it is completed or cancelled.
/// Reconnects if the connection breaks.
///
/// Errors: an error of `show`; the server refused a call; it never answered, or has not answered for five minutes.
pub async fn follow(
    client: &Client,
    id: CampaignId,
    show: impl FnMut(&Known<Statistics>) -> Result<(), CommandError>,
) -> Result<Known<CampaignView>, CommandError> {
    let mut follower = Follower { client, id, show, last: None, reconnect: Reconnect::default() };
    loop {
        let before = follower.last.clone();
        match follower.listen().await {
            Ok(Some(campaign)) => return Ok(campaign),
            Ok(None) => {}
            Err(CommandError::Client(error)) if follower.reconnect.can_follow(&error) => {}
            Err(failure) => return Err(failure),
        }
        let has_progressed = follower.last != before;
        follower.reconnect.wait(has_progressed).await;
    }
}

struct Follower<'a, Show> {
    client: &'a Client,
    id: CampaignId,
    show: Show,
    /// The statistics that were shown last.
    last: Option<Statistics>,
    reconnect: Reconnect,
}

impl<Show: FnMut(&Known<Statistics>) -> Result<(), CommandError>> Follower<'_, Show> {
    /// Follows over one connection. Returns the campaign if it is over, `None` if the server ended the stream.
    async fn listen(&mut self) -> Result<Option<Known<CampaignView>>, CommandError> {
        let campaign = self.fetch().await?;
        if is_over(campaign.state) {
            return Ok(Some(campaign));
        }
        let mut events = self.client.events(self.id).await?;
        loop {
            let event = events.next().await;
            self.reconnect.heard();
            let Some(event) = event? else { return Ok(None) };
            match event {
                // The event with the final statistics may not have arrived yet. The campaign itself has them.
                CampaignEvent::State(state) if is_over(state) => return Ok(Some(self.fetch().await?)),
                CampaignEvent::State(_) => {}
                CampaignEvent::Statistics(statistics) => self.show_changed(&statistics)?,
            }
        }
    }

    async fn fetch(&mut self) -> Result<Known<CampaignView>, CommandError> {
        let campaign = self.client.campaign(self.id).await?;
        self.reconnect.heard();
        if let Some(statistics) = campaign.statistics() {
            self.show_changed(&statistics)?;
        }
        Ok(campaign)
    }

    fn show_changed(&mut self, statistics: &Known<Statistics>) -> Result<(), CommandError> {
        if self.last.as_ref() != Some(&**statistics) {
            (self.show)(statistics)?;
            self.last = Some(Statistics::clone(statistics));
        }
        Ok(())
    }
}

/// Whether the campaign will send nothing more.
fn is_over(state: CampaignState) -> bool {
    matches!(state, CampaignState::Completed | CampaignState::Cancelled)
}
