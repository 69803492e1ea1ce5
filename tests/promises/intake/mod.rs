//! Intake: campaigns, uploads and jobs, the templates that they are validated against, and malformed input.

mod bad_input;
mod campaigns;
mod changing;
mod jobs;
mod retries;
mod templates;
mod uploads;
mod zones;
