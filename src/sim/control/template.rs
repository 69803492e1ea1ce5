//! `POST /sim/template`: changes the status, quality, category or components of templates.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly;
use serde::Deserialize;

use super::{Changed, problem};
use crate::sim::{
    delay::DURATION_MAX,
    template::{Component, Quality, TemplateStatus},
    template_change::{set_category, set_components, set_quality, set_status},
    world::SharedWorld,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateChange {
    /// The WABA. Without it, the template changes in all WABAs.
    waba: Option<String>,
    name: String,
    /// The language. Without it, the template changes in all languages.
    language: Option<String>,
    status: Option<TemplateStatus>,
    quality: Option<Quality>,
    /// How long a pause lasts.
    #[serde(default, rename = "for", with = "friendly")]
    lasts: Option<Duration>,
    category: Option<String>,
    /// How long before the change of category it is announced.
    #[serde(default, rename = "in", with = "friendly")]
    notice: Option<Duration>,
    components: Option<Vec<Component>>,
}

pub(super) fn change(world: &SharedWorld, change: &TemplateChange) -> Changed {
    if change.status.is_none() && change.quality.is_none() && change.category.is_none() && change.components.is_none() {
        return Err(problem("there is none of status, quality, category and components"));
    }
    if change.lasts.into_iter().chain(change.notice).any(|duration| duration > DURATION_MAX) {
        return Err(problem("for, in: is more than 24h"));
    }
    let changed: Vec<usize> = (0..world.templates.len()).filter(|template| change.fits(world, *template)).collect();
    if changed.is_empty() {
        return Err(problem(format!("there is no template {}", change.name)));
    }
    for template in changed {
        if let Some(components) = &change.components {
            set_components(world, template, components).map_err(problem)?;
        }
        if let Some(category) = &change.category {
            set_category(world, template, category.clone(), change.notice);
        }
        if let Some(quality) = change.quality {
            set_quality(world, template, quality, change.lasts);
        }
        if let Some(status) = change.status {
            set_status(world, template, status, change.lasts);
        }
    }
    Ok(())
}

impl TemplateChange {
    fn fits(&self, world: &SharedWorld, template: usize) -> bool {
        let spec = &world.templates[template].spec;
        spec.name == self.name
            && self.language.as_ref().is_none_or(|language| *language == spec.language)
            && self.waba.as_ref().is_none_or(|waba| *waba == spec.waba)
    }
}
