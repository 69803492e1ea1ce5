//! What comes in: campaigns, uploads and jobs, the templates they are checked against, and input that is malformed.

mod bad_input;
mod campaigns;
mod jobs;
mod templates;
mod uploads;
