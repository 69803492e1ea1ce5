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
    dispatch::DispatchSettings,
    domain::{Campaign, CampaignId, SendWindow, UnixMs, template::Form},
    graph::body::BodyPlan,
    redis::{Store, StoreError, campaigns::Definition},
    rules::{
        contact_hours::ContactHours,
        hours::UnknownZone,
        windows::{Opening, Windows},
    },
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
    /// The contact hours that `windows` follow.
    pub contact_hours: ContactHours,
    /// Builds the request bodies of its messages.
    pub body: BodyPlan,
    /// Whether this worker has every feature that the campaign requires. Otherwise it sends none of its messages.
    pub is_supported: bool,
}

/// When messages of the parts of a campaign may leave.
#[derive(Debug, Default)]
pub struct PartWindows {
    /// For parts whose recipients have no group.
    ungrouped: ByCategory,
    /// For parts with a group, by the number of the part.
    grouped: HashMap<u16, ByCategory>,
}

/// When messages of a part may leave: as marketing, and as any other category.
#[derive(Debug, Default)]
struct ByCategory {
    marketing: Leave,
    other: Leave,
}

/// When messages may leave.
#[derive(Debug, Default)]
enum Leave {
    #[default]
    Never,
    Within(Windows),
    Always,
}

impl PartWindows {
    /// Whether messages of a part may leave at `now`, and until when.
    pub fn at(&self, part: u16, is_marketing: bool, now: UnixMs) -> Opening {
        let window = self.grouped.get(&part).unwrap_or(&self.ungrouped);
        match if is_marketing { &window.marketing } else { &window.other } {
            Leave::Never => Opening::NEVER,
            Leave::Within(windows) => windows.at(now),
            Leave::Always => Opening { is_open: true, until: None },
        }
    }

    /// The windows of a campaign. `groups`: the group of each part that has one. `None` if all messages leave at all
    /// hours.
    pub fn of(
        window: Option<&SendWindow>,
        groups: &HashMap<u16, String>,
        hours: &ContactHours,
    ) -> Result<Option<Self>, UnknownZone> {
        if window.is_none() && groups.is_empty() {
            return Ok(None);
        }
        let ungrouped = match window {
            // The time zones of these recipients are not known, so their messages never leave.
            Some(window) if window.is_by_recipient() => ByCategory::default(),
            _ => ByCategory::of(window, None, hours)?,
        };
        let grouped = groups.iter().map(|(part, group)| Ok((*part, ByCategory::of(window, Some(group), hours)?)));
        Ok(Some(Self { ungrouped, grouped: grouped.collect::<Result<_, _>>()? }))
    }
}

impl ByCategory {
    fn of(window: Option<&SendWindow>, group: Option<&str>, hours: &ContactHours) -> Result<Self, UnknownZone> {
        let within = |hours| Ok(Windows::of_part(window, group, hours)?.map_or(Leave::Always, Leave::Within));
        Ok(Self { marketing: within(Some(hours))?, other: within(None)? })
    }
}

impl SendPlan {
    /// The plan of a campaign, for a worker with `settings`. `groups`: the group of each of its parts that has one.
    fn new(
        Definition { campaign, changes, .. }: Definition,
        groups: &HashMap<u16, String>,
        form: &Form,
        settings: &DispatchSettings,
        contact_hours: ContactHours,
    ) -> Self {
        let body = BodyPlan::new(&campaign.template, form);
        let missing = campaign.missing_features(settings.features);
        if !missing.is_empty() {
            warn!(campaign.id = %campaign.id, missing = missing.join(", "), "the campaign waits for a worker of a newer \
                release: this one lacks a feature that it requires");
        }
        let windows = PartWindows::of(campaign.send_window.as_ref(), groups, &contact_hours);
        let windows = windows.inspect_err(|error| {
            // The zone was checked at submission, perhaps by a process with a newer tz database.
            warn!(campaign.id = %campaign.id, %error, "the campaign waits for a worker that knows its time zone");
        });
        let is_supported = missing.is_empty() && windows.is_ok();
        Self { changes, windows: windows.unwrap_or_default(), contact_hours, body, is_supported, campaign }
    }
}

/// A plan to read: that of a campaign with at least this number of changes of its values.
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
    /// The `wanted` plans for a worker with `settings`, in no particular order, without campaigns that were deleted or
    /// whose template this version cannot send.
    ///
    /// Concurrent callers wait for the read in progress and share its result.
    pub async fn get(
        &self,
        store: &Store,
        wanted: &[WantedPlan],
        settings: &DispatchSettings,
    ) -> Result<Vec<Rc<SendPlan>>, StoreError> {
        let contact_hours = settings.contact_hours.get();
        let is_current =
            |plan: &Rc<SendPlan>, changes| plan.changes >= changes && plan.contact_hours.is_same(&contact_hours);
        let mut cached = self.0.lock().await;
        let (mut plans, mut missing) = (Vec::with_capacity(wanted.len()), Vec::new());
        for WantedPlan { id, changes } in wanted {
            match cached.get(id).and_then(Weak::upgrade).filter(|plan| is_current(plan, *changes)) {
                Some(plan) => plans.push(plan),
                None => missing.push(*id),
            }
        }
        if missing.is_empty() {
            return Ok(plans);
        }
        cached.retain(|_, plan| plan.strong_count() > 0);
        let definitions: Vec<Definition> = store.definitions(&missing).await?.into_iter().flatten().collect();
        let grouped = definitions.iter().filter(|definition| definition.grouped_parts > 0);
        let grouped: Vec<_> = grouped.map(|definition| (definition.campaign.id, definition.grouped_parts)).collect();
        let mut groups = if grouped.is_empty() { HashMap::new() } else { store.groups(&grouped).await? };
        for definition in definitions {
            let campaign = &definition.campaign;
            match Form::of(&campaign.template) {
                Ok(form) => {
                    let groups = groups.remove(&campaign.id).unwrap_or_default();
                    let plan = Rc::new(SendPlan::new(definition, &groups, &form, settings, contact_hours.clone()));
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
