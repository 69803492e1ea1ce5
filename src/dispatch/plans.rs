//! The campaigns that the lines of a thread work on: read once for all of them.
//!
//! A campaign names each of its lines, and they all begin when it is launched: a thousand that read a thousand names each would
//! keep the thread from all else just then.

use std::{
    collections::HashMap,
    rc::{Rc, Weak},
};

use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    domain::{Campaign, CampaignId, template::Form},
    graph::body::BodyPlan,
    redis::{Store, StoreError},
};

/// What is sent, and how.
#[derive(Debug)]
pub struct SendPlan {
    /// What was submitted.
    pub campaign: Campaign,
    /// How its request bodies are built.
    pub body: BodyPlan,
}

/// The plans that are in use.
#[derive(Debug, Default)]
pub struct SendPlans(Mutex<HashMap<CampaignId, Weak<SendPlan>>>);

impl SendPlans {
    /// The plans of `ids`, without those that are gone or can't be sent by this version.
    ///
    /// Who comes while another reads waits for what that one brings.
    pub async fn of(&self, store: &Store, ids: &[CampaignId]) -> Result<Vec<Rc<SendPlan>>, StoreError> {
        let mut known = self.0.lock().await;
        let (mut plans, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match known.get(id).and_then(Weak::upgrade) {
                Some(plan) => plans.push(plan),
                None => unknown.push(*id),
            }
        }
        if unknown.is_empty() {
            return Ok(plans);
        }
        known.retain(|_, plan| plan.strong_count() > 0);
        for campaign in store.definitions(&unknown).await?.into_iter().flatten() {
            match Form::of(&campaign.template) {
                Ok(form) => {
                    let body = BodyPlan::new(&campaign.template, &form);
                    let plan = Rc::new(SendPlan { campaign, body });
                    known.insert(plan.campaign.id, Rc::downgrade(&plan));
                    plans.push(plan);
                }
                // It was checked at submission; a newer version of this program may know more than this one.
                Err(error) => warn!(campaign.id = %campaign.id, %error, "this version can not send it"),
            }
        }
        Ok(plans)
    }
}
