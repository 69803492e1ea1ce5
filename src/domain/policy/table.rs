//! The table of Meta's error codes: the scope, action, wait and title of each.
//!
//! The codes and titles are Meta's, from its error-code page as integrators maintain it
//! (<https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes>, read 2026-11-22). Scope, action
//! and wait are our classification. `tests/fixtures/error_codes.csv` has the same facts for people and other
//! programs, and a test compares both in both directions.
//! Never: decides anything; the parent module does.

use std::time::Duration;

use super::{
    ErrorAction::{self, *},
    ErrorScope::{self, App, Line, Message, Pair, Platform, Recipient, Template, Token, Waba},
    Rule,
};

/// Every known code, ascending, without overlap.
pub(super) static TABLE: &[Rule] = &[
    code(0, Token, PauseToken, NO_WAIT, "App user could not be authenticated"),
    code(1, Message, RetryBackoff, secs(5), "Unspecified API error"),
    code(2, Platform, RetryBackoff, secs(10), "Platform down or overloaded"),
    code(3, App, PauseToken, NO_WAIT, "App lacks the capability"),
    code(4, App, ThrottleApp, secs(300), "App call quota exhausted"),
    code(10, Token, PauseToken, NO_WAIT, "Permission missing or withdrawn"),
    code(17, Token, ThrottleApp, secs(300), "User/system-user call quota exhausted"),
    code(33, Line, PauseLine, NO_WAIT, "Phone number id deleted or not visible"),
    code(100, Message, FailMessage, NO_WAIT, "Invalid or unknown parameter"),
    code(102, Token, PauseToken, NO_WAIT, "Session key invalid"),
    code(104, Token, PauseToken, NO_WAIT, "No access token sent"),
    code(190, Token, RefreshToken, NO_WAIT, "Access token expired or invalid"),
    codes(200, 299, Token, PauseToken, NO_WAIT, "Permission missing or withdrawn"),
    code(341, App, ThrottleApp, secs(300), "Application limit reached"),
    code(368, Waba, PauseWaba, secs(3600), "WABA restricted or disabled for policy violation"),
    code(506, Message, FailMessage, NO_WAIT, "Duplicate post"),
    code(613, App, ThrottleApp, secs(60), "Custom rate limit of an endpoint exceeded"),
    code(803, Line, PauseLine, NO_WAIT, "Object id does not exist"),
    code(80007, Waba, ThrottleWaba, secs(300), "WABA rate limit reached"),
    code(80008, Waba, ThrottleWaba, secs(300), "Too many management calls on this WABA"),
    code(130_403, Recipient, FailRecipient, NO_WAIT, "Business itself has blocked this user"),
    code(130_429, Line, ThrottleLine, secs(1), "Line throughput exceeded"),
    code(130_472, Recipient, FailRecipient, NO_WAIT, "User is in a Meta marketing experiment"),
    code(130_497, Waba, BlockCountry, NO_WAIT, "WABA may not message users in that country"),
    code(131_000, Message, RetryBackoff, secs(10), "Unknown send failure"),
    code(131_005, Token, PauseToken, NO_WAIT, "Access denied"),
    code(131_008, Message, StopCampaign, NO_WAIT, "Required parameter missing"),
    code(131_009, Message, FailMessage, NO_WAIT, "Parameter value invalid"),
    code(131_014, Message, FailMessage, NO_WAIT, "Media link could not be fetched (legacy code)"),
    code(131_016, Platform, RetryBackoff, secs(15), "A backend service is unavailable"),
    code(131_020, Message, FailMessage, NO_WAIT, "Group has only one member"),
    code(131_021, Recipient, FailRecipient, NO_WAIT, "Sender and recipient are the same number"),
    code(131_026, Recipient, FailRecipient, NO_WAIT, "Message undeliverable"),
    code(131_030, Recipient, FailRecipient, NO_WAIT, "Recipient not on the test number's allow list"),
    code(131_031, Waba, PauseWaba, secs(3600), "Account locked or restricted, or PIN/data mismatch"),
    code(131_037, Line, PauseLine, NO_WAIT, "555-type number without approved display name"),
    code(131_041, Message, FailMessage, NO_WAIT, "Group unknown"),
    code(131_042, Waba, PauseWaba, secs(3600), "Billing/payment set-up problem"),
    code(131_043, Message, FailMessage, NO_WAIT, "Message expired within its TTL"),
    code(131_044, Waba, PauseWaba, NO_WAIT, "Payment problem (calling)"),
    code(131_045, Line, PauseLine, NO_WAIT, "Line registration/certificate problem"),
    code(131_047, Message, FailMessage, NO_WAIT, "Free-form send outside the 24 h window"),
    code(131_048, Line, PauseLine, secs(3600), "Sending from this line restricted (spam/quality)"),
    code(131_049, Recipient, Defer24h, secs(86400), "Withheld to protect user engagement"),
    code(131_050, Recipient, SuppressMarketing, NO_WAIT, "User stopped marketing from this business"),
    code(131_051, Message, StopCampaign, NO_WAIT, "Unsupported message type"),
    code(131_052, ErrorScope::None, Ignore, NO_WAIT, "User's media could not be downloaded"),
    code(131_053, Message, RetryBackoff, secs(30), "Outgoing media could not be fetched/uploaded"),
    code(131_055, Message, StopCampaign, NO_WAIT, "Only marketing templates allowed here"),
    code(131_056, Pair, RetryPair, secs(6), "Pair rate limit"),
    code(131_057, Line, PauseLine, secs(60), "Account in maintenance (e.g. throughput upgrade)"),
    code(131_058, Template, StopCampaign, NO_WAIT, "hello_world only from public test numbers"),
    code(131_059, ErrorScope::None, Alert, NO_WAIT, "Paging cursor invalid or expired"),
    code(131_060, ErrorScope::None, Ignore, NO_WAIT, "Inbound message currently unavailable"),
    code(131_062, Message, FailMessage, NO_WAIT, "BSUID recipient not supported for this message"),
    code(131_063, Waba, StopCampaign, NO_WAIT, "Marketing templates disabled on /messages for this WABA"),
    code(
        131_064,
        Waba,
        PauseWaba,
        secs(21600),
        "Utility cap of the WABA hit (misclassification enforcement; utility sends only)",
    ),
    code(132_000, Template, StopCampaign, NO_WAIT, "Parameter count differs from template"),
    code(132_001, Template, PauseTemplate, NO_WAIT, "Template/language missing or not approved"),
    code(132_005, Message, FailMessage, NO_WAIT, "Rendered text too long"),
    code(132_007, Template, PauseTemplate, NO_WAIT, "Template content violates policy"),
    code(132_008, Message, FailMessage, NO_WAIT, "Parameter value badly formatted (older code)"),
    code(132_012, Message, FailMessage, NO_WAIT, "Parameter format differs from template"),
    code(132_015, Template, PauseTemplate, secs(10800), "Template paused, or held message dropped by template pacing"),
    code(132_016, Template, PauseTemplate, NO_WAIT, "Template disabled for good"),
    code(132_018, Message, FailMessage, NO_WAIT, "Template parameter validation error"),
    code(132_068, Template, PauseTemplate, NO_WAIT, "Flow blocked"),
    code(132_069, Template, PauseTemplate, secs(3600), "Flow throttled (10 messages per hour)"),
    code(133_000, Line, Alert, NO_WAIT, "Earlier deregistration incomplete"),
    code(133_004, Platform, RetryBackoff, secs(30), "Registration server unavailable"),
    code(133_005, Line, Alert, NO_WAIT, "Two-step PIN wrong"),
    code(133_006, Line, Alert, NO_WAIT, "Number must be verified before registering"),
    code(133_008, Line, Alert, NO_WAIT, "Too many PIN guesses"),
    code(133_009, Line, Alert, NO_WAIT, "PIN guessed too fast"),
    code(133_010, Line, PauseLine, NO_WAIT, "Number not registered on the platform"),
    code(133_015, Line, Alert, secs(300), "Number was just deleted"),
    code(133_016, Line, Alert, secs(259_200), "Register/deregister attempts exhausted"),
    code(134_011, Waba, PauseWaba, NO_WAIT, "WhatsApp Payments terms not accepted"),
    code(134_100, Message, StopCampaign, NO_WAIT, "Only MARKETING category accepted"),
    code(134_101, Template, PauseTemplate, secs(600), "Template still syncing to ads"),
    code(134_102, Waba, StopCampaign, NO_WAIT, "Template unusable or WABA not eligible"),
    code(
        135_000,
        Message,
        FailMessage,
        NO_WAIT,
        "Unclassified fault in request parameters; async on held messages: dropped by portfolio pacing",
    ),
    code(137_000, Recipient, FailMessage, NO_WAIT, "Recipient identity hash mismatch"),
    code(139_100, ErrorScope::None, Alert, NO_WAIT, "Bulk block/unblock partly failed"),
    code(141_002, Template, PauseTemplate, NO_WAIT, "Template not approved (health_status only)"),
    code(147_001, Line, Alert, NO_WAIT, "Business username unavailable"),
    code(200_002, Template, Alert, NO_WAIT, "Template creation failed"),
    code(2_388_019, Waba, Alert, NO_WAIT, "Template count limit of the WABA reached"),
    code(2_388_039, Template, Alert, NO_WAIT, "Template cannot be edited in its status"),
    code(2_494_100, Line, Alert, secs(300), "Number in maintenance mode"),
];

/// The error does not end by itself, or the action needs no wait.
const NO_WAIT: Option<Duration> = None;

const fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

const fn code(code: u32, scope: ErrorScope, action: ErrorAction, wait: Option<Duration>, title: &'static str) -> Rule {
    codes(code, code, scope, action, wait, title)
}

const fn codes(
    first: u32,
    last: u32,
    scope: ErrorScope,
    action: ErrorAction,
    wait: Option<Duration>,
    title: &'static str,
) -> Rule {
    Rule { codes: first..=last, scope, action, wait, title }
}
