//! Changes of templates, with the webhooks about them.
//! Source: developers.facebook.com/docs/whatsapp, message_template_status_update and template pausing, read in copies
//! of 11 Sep 2026.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    announce::announce,
    live_template::{LiveTemplate, Told},
    pacing::Pacer,
    requirements::Requirements,
    template::{Button, Component, HeaderFormat, Quality, TemplateStatus},
    timer,
    world::{SharedWorld, World},
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Meta's title and description of a pause, or of its end.
type Title = (&'static str, &'static str);

const FIRST_PAUSE: Title = ("FIRST_PAUSE", "Your template was paused for 3 hours because of feedback from customers.");
const SECOND_PAUSE: Title =
    ("SECOND_PAUSE", "Your template was paused for 6 hours because of feedback from customers.");
const PACING_PAUSE: Title = ("RATE_LIMITING_PAUSE", "Your template was paused because of feedback while it was paced.");
const UNPAUSE: Title = ("UNPAUSE", "Your template is active again.");
const DISABLED: Title = ("DISABLED", "Your template was disabled because of feedback from customers.");

/// Sets a status. `PAUSED` is a pause because of quality, see [`pause`].
///
/// `lasts`: the duration of a pause; Meta's by default.
pub(super) fn set_status(world: &SharedWorld, template: usize, status: TemplateStatus, lasts: Option<Duration>) {
    match status {
        TemplateStatus::Paused => pause(world, template, lasts),
        TemplateStatus::Disabled => enter(world, template, status, None, Some(DISABLED)),
        _ => enter(world, template, status, None, None),
    }
}

/// Pauses a template because of its quality: for 3 hours the first time, and for 6 the second. The third time disables
/// it.
fn pause(world: &SharedWorld, template: usize, lasts: Option<Duration>) {
    let mut state = world.templates[template].state_mut();
    state.pauses += 1;
    let pauses = state.pauses;
    drop(state);
    let (title, duration) = match pauses {
        1 => (FIRST_PAUSE, 3 * HOUR),
        2 => (SECOND_PAUSE, 6 * HOUR),
        _ => return enter(world, template, TemplateStatus::Disabled, None, Some(DISABLED)),
    };
    let until = world.clock.now() + lasts.unwrap_or(duration);
    enter(world, template, TemplateStatus::Paused, Some(until), Some(title));
    timer::at(world, until, move |world| {
        let state = world.templates[template].state();
        let is_this_pause = state.status == TemplateStatus::Paused && state.paused_until == Some(until);
        drop(state);
        if is_this_pause {
            enter(world, template, TemplateStatus::Approved, None, Some(UNPAUSE));
        }
    });
}

/// Pauses a template at the end of its pacing. This pause does not end by itself.
pub(super) fn pause_after_pacing(world: &World, template: usize) {
    if world.templates[template].state().status_at(world.clock.now()).is_sendable() {
        enter(world, template, TemplateStatus::Paused, None, Some(PACING_PAUSE));
    }
    world.templates[template].pacer.iter().for_each(Pacer::settle);
}

/// `POST {template}/unpause`.
///
/// Errors: the reason why the pause cannot be ended.
pub(super) fn unpause(world: &World, template: usize) -> Result<(), &'static str> {
    let is_paused = world.templates[template].state().status_at(world.clock.now()) == TemplateStatus::Paused;
    if !is_paused {
        return Err("The template is not paused.");
    }
    enter(world, template, TemplateStatus::Approved, None, Some(UNPAUSE));
    Ok(())
}

fn enter(world: &World, template: usize, status: TemplateStatus, until: Option<Duration>, title: Option<Title>) {
    let live = &world.templates[template];
    let mut value = subject(live);
    value["event"] = json!(status);
    value["message_template_category"] = json!(live.state().category);
    value["reason"] = json!(if status == TemplateStatus::Rejected { "INVALID_FORMAT" } else { "NONE" });
    if let Some((title, description)) = title {
        value["other_info"] = json!({"title": title, "description": description});
    }
    if status == TemplateStatus::Disabled {
        value["disable_info"] = json!({"disable_date": world.clock.unix(world.clock.now()).seconds()});
    }
    if status == TemplateStatus::Rejected {
        value["rejection_info"] =
            json!({"reason": "The variables are not of the right form.", "recommendation": "Edit the template."});
    }
    // Change the state before announcing it, so that a sender that got the webhook does not see the old status.
    let mut state = live.state_mut();
    (state.status, state.paused_until) = (status, until);
    state.told = Told::By(announce(world, live.waba, "message_template_status_update", value));
}

/// Sets the quality. `RED` also pauses the template, as at Meta.
pub(super) fn set_quality(world: &SharedWorld, template: usize, quality: Quality, lasts: Option<Duration>) {
    let live = &world.templates[template];
    let mut state = live.state_mut();
    let previous = std::mem::replace(&mut state.quality, quality);
    drop(state);
    let mut value = subject(live);
    value["previous_quality_score"] = json!(previous);
    value["new_quality_score"] = json!(quality);
    announce(world, live.waba, "message_template_quality_update", value);
    if quality == Quality::Red {
        pause(world, template, lasts);
    }
}

/// Changes the category. `notice`: how long before the change it is announced, if at all.
pub(super) fn set_category(world: &SharedWorld, template: usize, category: String, notice: Option<Duration>) {
    let Some(notice) = notice else { return enter_category(world, template, category) };
    let live = &world.templates[template];
    let at = world.clock.now() + notice;
    let mut state = live.state_mut();
    state.correct_category = Some(category.clone());
    let mut value = subject(live);
    // While the change is announced, Meta calls the current category the new one.
    value["new_category"] = json!(state.category);
    value["correct_category"] = json!(category);
    value["category_update_timestamp"] = json!(world.clock.unix(at).seconds());
    drop(state);
    announce(world, live.waba, "template_category_update", value);
    timer::at(world, at, move |world| {
        if world.templates[template].state().correct_category.as_ref() == Some(&category) {
            enter_category(world, template, category);
        }
    });
}

fn enter_category(world: &World, template: usize, category: String) {
    let live = &world.templates[template];
    let mut value = subject(live);
    let mut state = live.state_mut();
    let previous = std::mem::replace(&mut state.category, category);
    value["previous_category"] = json!(previous);
    value["new_category"] = json!(state.category);
    (state.previous_category, state.correct_category) = (Some(previous), None);
    drop(state);
    announce(world, live.waba, "template_category_update", value);
}

/// Replaces the components.
///
/// Errors: a sentence that says why Meta would not approve them.
pub(super) fn set_components(world: &World, template: usize, components: &[Component]) -> Result<(), String> {
    let live = &world.templates[template];
    let requirements = Requirements::of(live.spec.parameter_format, components)?;
    let mut value = subject(live);
    for component in components {
        match component {
            Component::Header { format: HeaderFormat::Text, text, .. } => {
                value["message_template_title"] = json!(text);
            }
            Component::Header { .. } => {}
            Component::Body { text, .. } => value["message_template_element"] = json!(text),
            Component::Footer { text, .. } => value["message_template_footer"] = json!(text),
            Component::Buttons { buttons } => {
                value["message_template_buttons"] = buttons.iter().map(button).collect();
            }
        }
    }
    let mut state = live.state_mut();
    (state.components, state.requirements) = (components.to_vec(), requirements);
    drop(state);
    announce(world, live.waba, "message_template_components_update", value);
    Ok(())
}

fn button(button: &Button) -> Value {
    let (kind, text) = match button {
        Button::QuickReply { text } => ("QUICK_REPLY", text.as_str()),
        Button::Url { text, .. } => ("URL", text.as_str()),
        Button::PhoneNumber { text, .. } => ("PHONE_NUMBER", text.as_str()),
        Button::CopyCode { .. } => ("COPY_CODE", "Copy offer code"),
        Button::Otp { text, .. } => ("OTP", text.as_str()),
    };
    json!({"message_template_button_type": kind, "message_template_button_text": text})
}

/// The fields that name a template in a webhook.
fn subject(template: &LiveTemplate) -> Value {
    json!({
        "message_template_id": template.id,
        "message_template_name": template.spec.name,
        // Meta writes the language with a hyphen here, and with an underscore everywhere else.
        "message_template_language": template.spec.language.replace('_', "-"),
    })
}
