//! A template of a running simulator.

use std::sync::{PoisonError, RwLock};

use super::{
    requirements::Requirements,
    template::{Template, TemplateStatus},
};

/// A template and its current status.
pub(super) struct LiveTemplate {
    pub(super) id: u64,
    pub(super) waba: usize,
    pub(super) spec: Template,
    pub(super) requirements: Requirements,
    status: RwLock<TemplateStatus>,
}

impl LiveTemplate {
    /// Errors: a sentence that says why Meta would not approve the template.
    pub(super) fn new(id: u64, waba: usize, spec: &Template) -> Result<Self, String> {
        let requirements = Requirements::of(spec)?;
        Ok(Self { id, waba, spec: spec.clone(), requirements, status: RwLock::new(spec.status) })
    }

    pub(super) fn is_marketing(&self) -> bool {
        self.spec.category == "MARKETING"
    }

    pub(super) fn status(&self) -> TemplateStatus {
        *self.status.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_status(&self, status: TemplateStatus) {
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Restores the status of the scenario.
    pub(super) fn reset(&self) {
        self.set_status(self.spec.status);
    }
}
