//! Types and rules of the domain. Pure: no I/O, no clock and no randomness; callers pass the time.

pub mod campaign;
pub mod fact;
pub mod hold;
pub mod ids;
pub mod inbound;
pub mod line;
pub mod lines;
pub mod outcome;
pub mod phone;
pub mod policy;
pub mod recipient;
pub mod reject;
pub mod retry;
pub mod secret;
pub mod state;
pub mod template;
pub mod time;
pub mod token;

pub use campaign::{Campaign, CampaignState, OnDoubt};
pub use fact::{Applied, ClaimedRow, Fact, Fingerprint, News, Settled};
pub use hold::{Hold, HoldScope};
pub use ids::{BusinessId, CampaignId, LineId, PartId, WabaId, Wamid};
pub use inbound::Inbound;
pub use line::{LINE_RATE_MAX, LINE_RATE_MIN, Line};
pub use lines::Lines;
pub use outcome::{Cause, ErrorScope, Outcome};
pub use phone::Phone;
pub use recipient::{RawRecipient, Recipient};
pub use reject::Reject;
pub use retry::RetryPolicy;
pub use secret::{Secret, SecretDigest};
pub use state::State;
pub use template::{Form, Language, Template};
pub use time::UnixMs;
pub use token::{SharedTokenKey, Token, TokenKey};
