//! Send plans: the campaigns that the lines of a shard work on, read once and shared.
//!
//! The definition of a campaign names all its lines, and all of them start when it is launched. If each of a thousand
//! lines read a definition with a thousand names, the shard could do nothing else at that moment.

use std::{
    collections::HashMap,
    rc::{Rc, Weak},
};

use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    domain::{Campaign, CampaignId, SendWindow, UnixMs, template::Form},
    graph::body::BodyPlan,
    redis::{Store, StoreError, campaigns::Definition},
    rules::windows::{Opening, UnknownZone, Windows},
};

/// A campaign, ready to be sent.
#[derive(Debug)]
pub struct SendPlan {
    /// The campaign, with the values that it had when the plan was made.
    pub campaign: Campaign,
    /// How often the values of the campaign had been changed.
    pub changes: u64,
    /// When messages of its parts may leave; `None`: at all hours.
    pub windows: Option<PartWindows>,
    /// Builds the request bodies of its messages.
    pub body: BodyPlan,
    /// Whether this worker has every feature that the campaign requires. Otherwise it sends none of its messages.
    pub is_supported: bool,
}

/// The send windows of the parts of a campaign.
#[derive(Debug)]
pub enum PartWindows {
    /// All parts have the same one.
    One(Windows),
    /// By the number of the part.
    ByPart(HashMap<u16, Windows>),
}

impl PartWindows {
    /// Whether the window of a part is open at `now`, and until when. A part that is not known is closed.
    pub fn at(&self, part: u16, now: UnixMs) -> Opening {
        let window = match self {
            PartWindows::One(window) => Some(window),
            PartWindows::ByPart(windows) => windows.get(&part),
        };
        window.map_or(Opening { is_open: false, until: None }, |window| window.at(now))
    }

    /// The windows of a campaign whose parts have these groups of time zones.
    fn of(window: &SendWindow, zones: &HashMap<u16, String>) -> Result<Self, UnknownZone> {
        if !window.is_by_recipient() {
            return Windows::of_part(window, None).map(PartWindows::One);
        }
        let windows = zones.iter().map(|(part, group)| Ok((*part, Windows::of_part(window, Some(group))?)));
        windows.collect::<Result<_, _>>().map(PartWindows::ByPart)
    }
}

impl SendPlan {
    /// The plan of a campaign after `changes` changes of its values, for a worker with `features`. `zones` are those of its
    /// parts, if its window goes by recipients.
    fn new(
        Definition { campaign, changes }: Definition,
        zones: &HashMap<u16, String>,
        form: &Form,
        features: &[&str],
    ) -> Self {
        let body = BodyPlan::new(&campaign.template, form);
        let missing = campaign.missing_features(features);
        if !missing.is_empty() {
            warn!(campaign.id = %campaign.id, missing = missing.join(", "), "the campaign waits for a worker of a newer \
                release: this one lacks a feature that it requires");
        }
        let window = campaign.send_window.as_ref().map(|window| PartWindows::of(window, zones));
        let windows = window.transpose().inspect_err(|error| {
            // The zone was checked at submission, perhaps by a process with a newer tz database.
            warn!(campaign.id = %campaign.id, %error, "the campaign waits for a worker that knows its time zone");
        });
        let is_supported = missing.is_empty() && windows.is_ok();
        Self { changes, windows: windows.unwrap_or_default(), body, is_supported, campaign }
    }
}

/// A plan to read: of the campaign after at least this many changes of its values.
#[derive(Clone, Copy, Debug)]
pub struct WantedPlan {
    /// The campaign.
    pub id: CampaignId,
    /// The number of changes.
    pub changes: u64,
}

/// The plans in use by the lines of a shard. A plan that no line uses is dropped.
#[derive(Debug, Default)]
pub struct SendPlans(Mutex<HashMap<CampaignId, Weak<SendPlan>>>);

impl SendPlans {
    /// The `wanted` plans for a worker with `features`, in no particular order, without campaigns that were deleted or
    /// whose template this version cannot send.
    ///
    /// Concurrent callers wait for the read in progress and share its result.
    pub async fn get(
        &self,
        store: &Store,
        wanted: &[WantedPlan],
        features: &[&str],
    ) -> Result<Vec<Rc<SendPlan>>, StoreError> {
        let mut cached = self.0.lock().await;
        let (mut plans, mut missing) = (Vec::with_capacity(wanted.len()), Vec::new());
        for WantedPlan { id, changes } in wanted {
            match cached.get(id).and_then(Weak::upgrade).filter(|plan| plan.changes >= *changes) {
                Some(plan) => plans.push(plan),
                None => missing.push(*id),
            }
        }
        if missing.is_empty() {
            return Ok(plans);
        }
        cached.retain(|_, plan| plan.strong_count() > 0);
        for definition in store.definitions(&missing).await?.into_iter().flatten() {
            let campaign = &definition.campaign;
            match Form::of(&campaign.template) {
                Ok(form) => {
                    let by_recipient = campaign.send_window.as_ref().is_some_and(SendWindow::is_by_recipient);
                    let zones =
                        if by_recipient { store.campaign(campaign.id).await?.map(|record| record.zones) } else { None };
                    let plan = Rc::new(SendPlan::new(definition, &zones.unwrap_or_default(), &form, features));
                    cached.insert(plan.campaign.id, Rc::downgrade(&plan));
                    plans.push(plan);
                }
                // The template was checked at submission, perhaps by a newer version of this program.
                Err(error) => warn!(campaign.id = %campaign.id, %error, "this version cannot send the campaign"),
            }
        }
        Ok(plans)
    }
}
