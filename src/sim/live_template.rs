//! A template of a running simulator. Callers pass the time.

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use super::{
    notice::NoticeId,
    pacing::Pacer,
    requirements::Requirements,
    template::{Component, Quality, Template, TemplateStatus},
};

pub(super) struct LiveTemplate {
    pub(super) id: u64,
    pub(super) waba: usize,
    /// The template of the scenario. Its changes are in the state.
    pub(super) spec: Template,
    pub(super) pacer: Option<Pacer>,
    state: RwLock<TemplateState>,
}

/// The properties of a template that can change while the simulator runs.
pub(super) struct TemplateState {
    pub(super) status: TemplateStatus,
    /// When the pause ends by itself, since the start of the simulator; `None` if it does not.
    pub(super) paused_until: Option<Duration>,
    /// How often the template was paused because of its quality.
    pub(super) pauses: u32,
    pub(super) told: Told,
    pub(super) quality: Quality,
    pub(super) category: String,
    pub(super) previous_category: Option<String>,
    /// The category after an announced change; `None` if no change is announced.
    pub(super) correct_category: Option<String>,
    pub(super) components: Vec<Component>,
    pub(super) requirements: Requirements,
}

/// How a sender learns the status of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// From the scenario: the sender reads the status before it sends.
    FromStart,
    /// From this notice; `None` if the WABA has no webhook.
    By(Option<NoticeId>),
}

impl LiveTemplate {
    /// Errors: a sentence that says why Meta would not approve the template.
    pub(super) fn new(id: u64, waba: usize, spec: &Template) -> Result<Self, String> {
        let state = RwLock::new(TemplateState::of(spec)?);
        Ok(Self { id, waba, spec: spec.clone(), pacer: spec.pacing.clone().map(Pacer::new), state })
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, TemplateState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, TemplateState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores the template of the scenario.
    pub(super) fn reset(&self) {
        if let Ok(initial) = TemplateState::of(&self.spec) {
            *self.state_mut() = initial;
        }
        self.pacer.iter().for_each(Pacer::reset);
    }
}

impl TemplateState {
    fn of(spec: &Template) -> Result<Self, String> {
        Ok(Self {
            status: spec.status,
            paused_until: None,
            pauses: 0,
            told: Told::FromStart,
            quality: Quality::Green,
            category: spec.category.clone(),
            previous_category: None,
            correct_category: None,
            components: spec.components.clone(),
            requirements: Requirements::of(spec.parameter_format, &spec.components)?,
        })
    }

    /// The status at this time. A pause ends at its time, even if its webhook is sent later.
    pub(super) fn status_at(&self, now: Duration) -> TemplateStatus {
        match (self.status, self.paused_until) {
            (TemplateStatus::Paused, Some(until)) if until <= now => TemplateStatus::Approved,
            (status, _) => status,
        }
    }

    pub(super) fn is_utility(&self) -> bool {
        self.category == "UTILITY"
    }

    pub(super) fn is_authentication(&self) -> bool {
        self.category == "AUTHENTICATION"
    }

    pub(super) fn is_marketing(&self) -> bool {
        self.category == "MARKETING"
    }
}
