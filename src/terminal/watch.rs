//! Following a campaign until it is over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{CommandError, out, progress::CampaignProgress, table};
use crate::{
    client::{CampaignEvent, CampaignView, Client, Statistics},
    domain::{CampaignId, CampaignState},
    telemetry::clock,
};

/// Before a new connection, when the last one brought something; doubles while they bring nothing.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause between two connections.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server that has not answered for so long is not being restarted: it is gone.
const PATIENCE: Duration = Duration::from_secs(300);

/// `pregon campaign watch`: shows a campaign until it is completed or cancelled, and then how it ended.
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
    Ok(out::line(&format!("\n{}", table::campaign(&ended?, clock::now())))?)
}

/// Gives the statistics to `show` each time they change, and the campaign once it is completed or cancelled.
/// A connection that breaks is made anew.
///
/// Errors: what `show` gave; the server refused, did not answer at all, or not for five minutes after it had.
pub async fn follow(
    client: &Client,
    id: CampaignId,
    show: impl FnMut(&Statistics) -> Result<(), CommandError>,
) -> Result<CampaignView, CommandError> {
    let mut follower = Follower { client, id, show, last: None, answered: None };
    let mut pause = PAUSE_MIN;
    loop {
        let before = follower.last.clone();
        match follower.listen().await {
            Ok(Some(campaign)) => return Ok(campaign),
            Ok(None) => {}
            Err(CommandError::Client(error)) if error.is_passing() && follower.is_patient() => {}
            Err(failure) => return Err(failure),
        }
        pause = if follower.last == before { PAUSE_MAX.min(pause * 2) } else { PAUSE_MIN };
        sleep(pause).await;
    }
}

struct Follower<'a, Show> {
    client: &'a Client,
    id: CampaignId,
    show: Show,
    last: Option<Statistics>,
    answered: Option<Instant>,
}

impl<Show: FnMut(&Statistics) -> Result<(), CommandError>> Follower<'_, Show> {
    /// Follows over one connection. Gives the campaign if it is over, and nothing if the server ended the stream.
    async fn listen(&mut self) -> Result<Option<CampaignView>, CommandError> {
        let campaign = self.look().await?;
        if is_over(campaign.state) {
            return Ok(Some(campaign));
        }
        let mut events = self.client.events(self.id).await?;
        while let Some(told) = events.next().await? {
            match told {
                // Statistics that belong to the end may still be on their way: a look has them.
                CampaignEvent::State(state) if is_over(state) => return Ok(Some(self.look().await?)),
                CampaignEvent::State(_) => {}
                CampaignEvent::Statistics(statistics) => self.tell(&statistics)?,
            }
        }
        Ok(None)
    }

    async fn look(&mut self) -> Result<CampaignView, CommandError> {
        let campaign = self.client.campaign(self.id).await?;
        self.answered = Some(Instant::now());
        if let Some(statistics) = &campaign.statistics {
            self.tell(statistics)?;
        }
        Ok(campaign)
    }

    fn tell(&mut self, statistics: &Statistics) -> Result<(), CommandError> {
        self.answered = Some(Instant::now());
        if self.last.as_ref() != Some(statistics) {
            (self.show)(statistics)?;
            self.last = Some(statistics.clone());
        }
        Ok(())
    }

    fn is_patient(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < PATIENCE)
    }
}

/// Nothing will be sent any more.
fn is_over(state: CampaignState) -> bool {
    matches!(state, CampaignState::Completed | CampaignState::Cancelled)
}
