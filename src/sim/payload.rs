//! The bodies of webhook POSTs, in Meta's format.
//! Source: developers.facebook.com/docs/whatsapp/cloud-api/webhooks, status webhook, read in a copy of 21 May 2026.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::{
    courier::{StatusUpdate, Update},
    free::Choice,
    inbound::Content,
    line::SimLine,
    message::{inbound_wamid, wamid},
    notice::Notice,
    people::user_id,
    wire,
    world::SharedWorld,
};
use crate::domain::State;

/// The profile name of every person. Not ASCII, so that a signature over anything but the raw bytes fails.
const PROFILE_NAME: &str = "José Muñoz 🙂";

/// Builds one body for all `updates` of a WABA, in their order. An answer becomes an inbound message here.
///
/// Adjacent updates of the same line share a change. Failed statuses have a change of their own, without `contacts`, as
/// at Meta.
pub(super) fn body(world: &SharedWorld, waba: usize, run: u64, updates: &mut [Update]) -> Vec<u8> {
    let id = world.wabas[waba].spec.id.as_str();
    let mut messages = Entry { id, time: None, changes: Vec::new() };
    let mut management = Vec::new();
    for update in updates {
        if let Update::Answer { line, message } = *update {
            let mut state = world.lines[usize::from(line)].state();
            let inbound = if state.run == run { state.answer(message, world.clock.now()) } else { None };
            // `None`: a reset has removed the message. No inbound message has the index `u32::MAX`, so the update is
            // omitted.
            *update = Update::Inbound { line, inbound: inbound.unwrap_or(u32::MAX) };
        }
        match *update {
            Update::Status(update) => {
                let line = &world.lines[usize::from(update.line)];
                if let Some(body) = StatusBody::of(world, line, run, update) {
                    value_for(&mut messages.changes, line, update.status == State::Failed).push_status(body);
                }
            }
            Update::Inbound { line, inbound } => {
                let line = &world.lines[usize::from(line)];
                if let Some(body) = InboundBody::of(world, line, run, inbound) {
                    value_for(&mut messages.changes, line, false).push_message(body);
                }
            }
            Update::Notice(notice) => {
                if let Some(Notice { field, value, at, .. }) = world.notices.get(run, notice) {
                    let changes = vec![Change { field, value: Value::Notice(value) }];
                    management.push(Entry { id, time: Some(world.clock.unix(at).seconds()), changes });
                }
            }
            Update::Answer { .. } => {}
        }
    }
    let mut entry = management;
    if !messages.changes.is_empty() {
        entry.insert(0, messages);
    }
    wire::to_json(&Envelope { object: "whatsapp_business_account", entry })
}

/// The value for the next update: the last one if it has the same line and kind, else a new one.
fn value_for<'a, 'w>(changes: &'a mut Vec<Change<'w>>, line: &'w SimLine, failed: bool) -> &'a mut MessagesValue<'w> {
    let fits = |change: &Change<'_>| {
        matches!(&change.value, Value::Messages(value)
            if value.metadata.phone_number_id == line.spec.id && value.failed == failed)
    };
    if !changes.last().is_some_and(fits) {
        changes.push(Change { field: "messages", value: Value::Messages(MessagesValue::new(line, failed)) });
    }
    match changes.last_mut().map(|change| &mut change.value) {
        Some(Value::Messages(value)) => value,
        _ => unreachable!("the last change is a messages change, found or pushed above"),
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    object: &'a str,
    entry: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    changes: Vec<Change<'a>>,
}

#[derive(Serialize)]
struct Change<'a> {
    field: &'a str,
    value: Value<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Messages(MessagesValue<'a>),
    Notice(serde_json::Value),
}

#[derive(Serialize)]
struct MessagesValue<'a> {
    messaging_product: &'a str,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<Contact<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<StatusBody>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<InboundBody>,
    #[serde(skip)]
    failed: bool,
}

#[derive(Serialize)]
struct Metadata<'a> {
    display_phone_number: String,
    phone_number_id: &'a str,
}

#[derive(Serialize)]
struct Contact<'a> {
    profile: Profile<'a>,
    wa_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

#[derive(Serialize)]
struct Profile<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct StatusBody {
    id: String,
    status: &'static str,
    timestamp: String,
    recipient_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[StatusError; 1]>,
}

#[derive(Serialize)]
struct Pricing {
    billable: bool,
    pricing_model: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    category: String,
}

#[derive(Serialize)]
struct StatusError {
    code: u32,
    title: &'static str,
    message: &'static str,
    error_data: StatusErrorData,
    href: &'static str,
}

#[derive(Serialize)]
struct StatusErrorData {
    details: &'static str,
}

#[derive(Serialize)]
struct InboundBody {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_user_id: Option<String>,
    id: String,
    timestamp: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// One object, named like the type.
    #[serde(flatten)]
    content: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
}

#[derive(Serialize)]
struct Context {
    from: String,
    id: String,
}

impl<'a> MessagesValue<'a> {
    fn new(line: &'a SimLine, failed: bool) -> Self {
        let metadata = Metadata { display_phone_number: line.digits(), phone_number_id: &line.spec.id };
        Self {
            messaging_product: "whatsapp",
            metadata,
            contacts: Vec::new(),
            statuses: Vec::new(),
            messages: Vec::new(),
            failed,
        }
    }

    fn push_status(&mut self, status: StatusBody) {
        if !self.failed {
            self.push_contact(status.recipient_id.clone(), status.recipient_user_id.clone());
        }
        self.statuses.push(status);
    }

    fn push_message(&mut self, message: InboundBody) {
        self.push_contact(message.from.clone(), message.from_user_id.clone());
        self.messages.push(message);
    }

    fn push_contact(&mut self, wa_id: String, user_id: Option<String>) {
        self.contacts.push(Contact { profile: Profile { name: PROFILE_NAME }, wa_id, user_id });
    }
}

impl StatusBody {
    /// Returns `None` if a reset has removed the message.
    fn of(world: &SharedWorld, line: &SimLine, run: u64, update: StatusUpdate) -> Option<Self> {
        let StatusUpdate { message: number, at_ms, status, token, .. } = update;
        let state = line.state();
        let message = state.messages.get(number).filter(|_| state.run == run)?;
        let (to, code, template) = (message.to, message.code, message.template);
        let callback = Some(message.callback.clone()).filter(|callback| token && !callback.is_empty());
        drop(state);
        let category = || match template {
            Some(template) => world.templates[template.get()].state().category.to_lowercase(),
            None => "service".into(),
        };
        let pricing = matches!(status, State::Sent | State::Delivered);
        let title = wire::title(code);
        Some(Self {
            id: wamid(run, line.index, number, to),
            status: status.name(),
            timestamp: world.clock.unix(Duration::from_millis(at_ms.into())).seconds().to_string(),
            recipient_id: to.digits().to_string(),
            recipient_user_id: world.user_ids.then(|| user_id(to)),
            biz_opaque_callback_data: callback,
            pricing: pricing.then(|| Pricing {
                billable: true,
                pricing_model: "PMP",
                kind: "regular",
                category: category(),
            }),
            errors: (status == State::Failed).then_some([StatusError {
                code,
                title,
                message: title,
                error_data: StatusErrorData { details: title },
                href: "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
            }]),
        })
    }
}

impl InboundBody {
    /// Returns `None` if a reset has removed the inbound message.
    fn of(world: &SharedWorld, line: &SimLine, run: u64, number: u32) -> Option<Self> {
        let state = line.state();
        let inbound = state.inbound.get(usize::try_from(number).ok()?).filter(|_| state.run == run)?.clone();
        drop(state);
        let about = inbound.about.map(|message| wamid(run, line.index, message, inbound.from));
        let (kind, content, quotes) = match inbound.content {
            Content::Text(text) => ("text", json!({"body": text}), false),
            Content::Tap(tap) => ("button", json!({"payload": tap.payload, "text": tap.label}), true),
            Content::Choice(choice) => ("interactive", choice_body(&choice), true),
            Content::File(medium, id) => (medium.name(), medium.body(id), false),
            Content::Reaction(emoji) => ("reaction", json!({"message_id": about, "emoji": emoji}), false),
        };
        Some(Self {
            from: inbound.from.digits().to_string(),
            from_user_id: world.user_ids.then(|| user_id(inbound.from)),
            id: inbound_wamid(run, line.index, number, inbound.from),
            timestamp: world.clock.unix(inbound.at).seconds().to_string(),
            kind,
            content: [(kind.to_owned(), content)].into_iter().collect(),
            context: about.filter(|_| quotes).map(|id| Context { from: line.digits(), id }),
        })
    }
}

fn choice_body(choice: &Choice) -> serde_json::Value {
    let mut reply = json!({"id": choice.id, "title": choice.title});
    if !choice.description.is_empty() {
        reply["description"] = json!(choice.description);
    }
    let kind = if choice.is_row { "list_reply" } else { "button_reply" };
    json!({"type": kind, kind: reply})
}
