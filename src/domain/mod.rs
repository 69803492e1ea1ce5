//! Types and rules. Pure: no I/O, no clock, no randomness; time is an argument.

pub mod ids;
pub mod outcome;
pub mod phone;
pub mod policy;
pub mod retry;
pub mod secret;
pub mod state;
pub mod time;
pub mod token;

pub use ids::{BusinessId, CampaignId, LineId, PartId, WabaId, Wamid};
pub use outcome::{Cause, Outcome, Scope};
pub use phone::Phone;
pub use retry::RetryPolicy;
pub use secret::Secret;
pub use state::State;
pub use time::UnixMs;
