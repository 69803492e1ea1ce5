//! The JSON schemas of values that `domain` defines and whose form on the wire is not that of their fields.

use std::borrow::Cow;

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

use super::{ProblemCode, WaitReason};
use crate::domain::{
    BusinessId, CampaignId, CampaignState, Day, EntryId, EventType, FrequencyCap, Late, LineId, MediaId, MetaCode,
    OnDoubt, OnWithheld, Phone, RawRecipient, SendWindow, State, SubscriberId, Template, UnixMs, WabaId, Wamid,
    campaign::{PauseReason, RetriedState},
};

/// Implements `ToSchema` for a type, with its schema as JSON.
macro_rules! schema_of {
    ($type:ty, $name:literal, $json:expr) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::T(schema($json))
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }
    };
}

fn schema(json: Value) -> Schema {
    serde_json::from_value(json).expect("a schema: `make test` generates all of them")
}

schema_of!(
    CampaignId,
    "CampaignId",
    json!({
        "type": "string", "description": "Assigned by Pregón: a ULID.", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        "examples": ["01J9ZK3V5T8R7Q6P5N4M3K2J1H"],
    })
);
schema_of!(
    MediaId,
    "MediaId",
    json!({
        "type": "string", "description": "A file of a chat. Assigned by Pregón: a ULID.",
        "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", "examples": ["01KBCNYG3T8R7Q6P5N4M3K2J1H"],
    })
);
schema_of!(
    EntryId,
    "EntryId",
    json!({
        "type": "string", "description": "The id of an entry of a stream in Redis.", "pattern": "^[0-9]+-[0-9]+$",
        "examples": ["1795339607791-0"],
    })
);
schema_of!(
    LineId,
    "LineId",
    json!({
        "type": "string", "description": "A line: Meta's `phone_number_id`.", "examples": ["3001"],
    })
);
schema_of!(
    BusinessId,
    "BusinessId",
    json!({
        "type": "string", "description": "A business portfolio: Meta's id.", "examples": ["1001"],
    })
);
schema_of!(
    WabaId,
    "WabaId",
    json!({
        "type": "string", "description": "A WhatsApp Business Account: Meta's id.", "examples": ["2001"],
    })
);
schema_of!(
    Wamid,
    "MessageId",
    json!({
        "type": "string", "description": "Meta's id of a message. Opaque.",
        "examples": ["wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjlBM0NBNUIzRDREOTJGNjdFNwA="],
    })
);
schema_of!(
    SubscriberId,
    "SubscriberId",
    json!({
        "type": "string", "description": "A subscriber: the id in the configuration.", "examples": ["crm"],
    })
);
schema_of!(
    EventType,
    "EventType",
    json!({
        "type": "string", "enum": EventType::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "description": "What an event is about.",
    })
);
schema_of!(
    Phone,
    "Phone",
    json!({
        "type": "string", "description": "A phone number in E.164.", "pattern": "^\\+[1-9][0-9]{6,14}$",
        "examples": ["+5491155550001"],
    })
);
schema_of!(
    UnixMs,
    "Time",
    json!({
        "type": "string", "format": "date-time", "description": "RFC 3339, in UTC.",
        "examples": ["2026-11-22T18:00:00Z"],
    })
);
schema_of!(
    RetriedState,
    "RetriedState",
    json!({
        "type": "string", "enum": RetriedState::ALL.map(RetriedState::name),
    })
);
schema_of!(
    CampaignState,
    "CampaignState",
    json!({
        "type": "string", "enum": CampaignState::ALL.map(CampaignState::name),
    })
);
schema_of!(
    OnDoubt,
    "OnDoubt",
    json!({
        "type": "string", "enum": [OnDoubt::Hold, OnDoubt::Resend], "default": OnDoubt::default(),
        "description": "What happens to a message that is still in doubt at the deadline. `hold`: it ends as \
            `unknown`, so no recipient gets two messages. `resend`: it is sent again, so a recipient may get it \
            twice.",
    })
);
schema_of!(
    Late,
    "Late",
    json!({
        "type": "string", "enum": Late::ALL, "default": Late::default(),
        "description": "What happens to a scheduled campaign whose start was missed because no worker ran. `send`: it \
            starts late. `expire`: its recipients end as `expired`. `hold`: it is paused with a `reason`.",
    })
);
schema_of!(
    OnWithheld,
    "OnWithheld",
    json!({
        "type": "string", "enum": [OnWithheld::Fail, OnWithheld::Retry], "default": OnWithheld::default(),
        "description": "What happens to a message that Meta withholds because the recipient gets too much marketing \
            (131049). `fail`: it fails. `retry`: it is sent once more, 24 to 25 hours later, and fails if Meta \
            withholds it again.",
    })
);
schema_of!(
    FrequencyCap,
    "FrequencyCap",
    json!({
        "type": "object", "additionalProperties": false, "required": ["messages", "days"],
        "description": "The maximum number of marketing messages to a person within a number of days of 24 hours each.",
        "properties": {
            "messages": {
                "type": "integer", "minimum": FrequencyCap::MESSAGES.start(), "maximum": FrequencyCap::MESSAGES.end(),
            },
            "days": { "type": "integer", "minimum": FrequencyCap::DAYS.start(), "maximum": FrequencyCap::DAYS.end() },
        },
    })
);
schema_of!(
    SendWindow,
    "SendWindow",
    json!({
        "type": "object", "additionalProperties": false, "required": ["from", "to", "zone"],
        "description": "The hours of the day and the days of the week in which messages leave, by local clocks.",
        "properties": {
            "from": {
                "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "examples": ["09:00"],
                "description": "The first minute in which messages leave.",
            },
            "to": {
                "type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", "examples": ["20:00"],
                "description": "The end, later on the same day: the first minute in which no message leaves.",
            },
            "days": {
                "type": "array", "items": { "type": "string", "enum": Day::ALL }, "minItems": 1,
                "description": "The days on which messages leave. The default is every day.",
            },
            "zone": {
                "type": "string", "examples": ["America/Bogota"],
                "description": "A time zone of the tz database, or `recipient` for the local time of each recipient.",
            },
        },
    })
);
schema_of!(MetaCode, "MetaCode", json!({ "type": "integer", "minimum": 0, "description": "Meta's error code." }));
schema_of!(
    PauseReason,
    "PauseReason",
    json!({
        "type": "object", "description": "Why the worker paused a campaign.", "required": ["code", "details"],
        "properties": {
            "code": {
                "type": "integer", "minimum": 0,
                "description": "Meta's error code; 0 if the worker found the reason itself.",
            },
            "details": { "type": "string", "description": "Meta's error text, or the worker's reason." },
        },
    })
);
schema_of!(
    ProblemCode,
    "ProblemCode",
    json!({
        "type": "string", "enum": ProblemCode::ALL, "description": "A problem of a campaign before its launch.",
    })
);
schema_of!(WaitReason, "WaitReason", json!({ "type": "string", "enum": WaitReason::ALL }));
schema_of!(
    RawRecipient,
    "NewRecipient",
    json!({
        "type": "object", "additionalProperties": false, "required": ["to"],
        "description": "A recipient to add: an element of `recipients`, and a line of an upload as NDJSON.",
        "properties": {
            "to": {
                "type": ["string", "integer"], "description": "The phone number in E.164.",
                "examples": ["+5491155550001"],
            },
            "params": {
                "type": "object", "additionalProperties": { "type": ["string", "number"] },
                "description": "A value for each parameter of the body, by number or by name.",
                "examples": [{ "1": "Maria", "2": "A-10" }],
            },
            "header": {
                "description": "The text, the medium (its link or id) or the location.",
                "type": ["string", "number", "object", "null"], "additionalProperties": false,
                "properties": {
                    "link": { "type": ["string", "null"] }, "id": { "type": ["string", "number", "null"] },
                    "filename": { "type": ["string", "null"] }, "latitude": { "type": ["string", "number", "null"] },
                    "longitude": { "type": ["string", "number", "null"] }, "name": { "type": ["string", "null"] },
                    "address": { "type": ["string", "null"] },
                },
            },
            "buttons": {
                "type": "object", "additionalProperties": { "type": ["string", "number"] },
                "description": "A value for each button that takes one, by its position among all buttons, from `0`.",
                "examples": [{ "0": "u/abc" }],
            },
            "zone": {
                "type": ["string", "null"], "examples": ["America/Bogota"],
                "description": "The recipient's time zone, by its name in the tz database. Without it, the zone \
                    follows from the number.",
            },
        },
    })
);
schema_of!(
    Template,
    "TemplateOfMeta",
    json!({
        "type": "object",
        "description": "A template as Meta returns it, without the fields that sending does not need.",
        "required": ["name", "language", "status", "category", "parameter_format", "components"],
        "properties": {
            "id": { "type": "string", "description": "Meta's id; absent if it is not known yet." },
            "name": { "type": "string", "examples": ["order_update"] },
            "language": { "type": "string", "examples": ["es_AR"] },
            "status": { "type": "string", "description": "The status at Meta.", "examples": ["APPROVED"] },
            "rejected_reason": {
                "type": "string", "description": "Why Meta rejected it; absent if Meta gave no reason.",
            },
            "category": {
                "type": "string", "description": "Meta's category.",
                "examples": ["MARKETING", "UTILITY", "AUTHENTICATION"],
            },
            "sub_category": { "type": "string", "description": "Meta's sub-category; absent if there is none." },
            "quality_score": {
                "type": "string", "description": "How people react to it; absent if Meta does not say.",
                "examples": ["GREEN", "YELLOW", "RED", "UNKNOWN"],
            },
            "parameter_format": { "type": "string", "enum": ["POSITIONAL", "NAMED"] },
            "components": { "type": "array", "items": {
                "type": "object", "required": ["type"],
                "properties": {
                    "type": { "type": "string", "examples": ["HEADER", "BODY", "FOOTER", "BUTTONS"] },
                    "format": {
                        "type": "string", "description": "The format of a header.", "examples": ["TEXT", "IMAGE"],
                    },
                    "text": { "type": "string", "description": "The text with its placeholders." },
                    "buttons": { "type": "array", "items": {
                        "type": "object", "required": ["type"],
                        "properties": {
                            "type": { "type": "string", "examples": ["QUICK_REPLY", "URL"] },
                            "text": { "type": "string" },
                            "url": { "type": "string" },
                        },
                    } },
                },
            } },
            "unreadable": { "type": "string", "description": "Why the template can't be read; absent if it can." },
        },
    })
);

/// A public state of a recipient, as a parameter and in a response.
pub fn recipient_state() -> Schema {
    // `Refused` is shown as `failed`.
    let states = State::ALL.into_iter().filter(|state| *state != State::Refused).map(State::name);
    let description = "What happened to the recipient so far.";
    schema(json!({ "type": "string", "description": description, "enum": states.collect::<Vec<_>>() }))
}
