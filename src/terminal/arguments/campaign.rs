//! The arguments of `pregon campaign`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Output,
    values::{
        CampaignName, Setting, frequency_cap, late, line_id, number, on_doubt, on_withheld, opt_out_button, phone,
        rate, rate_or_none, recipient_state, retried_state, time, time_or_none, window, window_or_none,
    },
};
use crate::domain::{
    CampaignState, FrequencyCap, Late, LineId, OnDoubt, OnWithheld, Phone, SendWindow, UnixMs,
    campaign::{OptOutButton, RetriedState},
};

/// Below the options of `pregon campaign cancel`.
const CANCEL_HELP: &str = "\
`pregon campaign pause` stops campaigns for a while instead. If a campaign is
cancelled during a retry, recipients who got no new message are failed or
unknown, as before the retry, and the campaign cannot be retried once more.";

/// `pregon campaign …`
#[derive(Subcommand, Debug)]
pub enum CampaignCommand {
    /// Submit a campaign with its recipients, and launch it
    Submit(Box<SubmitOptions>),
    /// Upload recipients into a campaign that has not started
    Upload(UploadOptions),
    /// Launch drafts: sending begins now, or at their start time
    Launch(CampaignArguments),
    /// List the campaigns, newest first
    List {
        /// Only campaigns in this state: draft, scheduled, running, paused, completed, cancelled
        #[arg(long)]
        state: Option<CampaignState>,
        /// The maximum number of campaigns
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1..=u16::MAX))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show a campaign with its statistics
    Show {
        /// The campaign: its id, or your external id
        id: CampaignName,
        #[command(flatten)]
        output: Output,
    },
    /// Follow a campaign until it is completed or cancelled
    Watch {
        /// The campaign: its id, or your external id
        id: CampaignName,
        #[command(flatten)]
        output: Output,
    },
    /// Show what a launch would do: problems, skipped recipients, cost, start and end
    Preflight {
        /// The campaign: its id, or your external id
        id: CampaignName,
        #[command(flatten)]
        output: Output,
    },
    /// Send a campaign's message to a few test numbers, with the values of its first recipients
    Test(TestOptions),
    /// Change the times, priority, rate or send window of a campaign that has not ended
    Change(ChangeOptions),
    /// Pause campaigns: send nothing more until they are resumed
    Pause(CampaignArguments),
    /// Resume paused campaigns
    Resume(CampaignArguments),
    /// Cancel campaigns: send nothing more, for good
    #[command(after_help = CANCEL_HELP)]
    Cancel(CampaignArguments),
    /// Send a completed campaign again to recipients who did not get the message, with the same values
    Retry(RetryOptions),
    /// Delete drafts and ended campaigns, with all their data and statistics
    Delete(CampaignArguments),
    /// List the recipients of a campaign, with their states
    Recipients(RecipientsOptions),
    /// Write all recipients with their outcomes, as CSV
    Report {
        /// The campaign: its id, or your external id
        id: CampaignName,
        /// Write to this file instead of standard output; the file appears once the report is complete
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// One or more campaigns.
#[derive(Args, Debug)]
pub struct CampaignArguments {
    /// The campaigns: their ids, or your external ids
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<CampaignName>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign test …`
#[derive(Args, Debug)]
pub struct TestOptions {
    /// The campaign: its id, or your external id
    pub id: CampaignName,
    /// The phone numbers, such as +5491155550001: 1 to 10
    #[arg(required = true, value_name = "PHONE", value_parser = phone, num_args = 1..=10)]
    pub to: Vec<Phone>,
    /// Your own id for the test; repeating the command with the same id sends nothing twice
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign change …`
#[derive(Args, Debug)]
pub struct ChangeOptions {
    /// The campaign: its id, or your external id
    pub id: CampaignName,
    #[command(flatten)]
    pub values: ChangedValues,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign retry …`
#[derive(Args, Debug)]
pub struct RetryOptions {
    /// The campaign: its id, or your external id
    pub id: CampaignName,
    /// Send again to recipients in these states: failed, unknown, or failed,unknown. An unknown recipient may already
    /// have the message
    #[arg(long, value_name = "STATES", value_delimiter = ',', required = true, value_parser = retried_state())]
    pub states: Vec<RetriedState>,
    /// Only recipients that failed with one of these error codes, such as 131042,131026
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub codes: Vec<u32>,
    /// Your own id for the retry; repeating the command with the same id sends nothing twice
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// The new values of a campaign.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct ChangedValues {
    /// Start at this time, such as 2026-11-22T09:00:00-03:00, or `none` to start now; possible until the campaign has
    /// started
    #[arg(long, value_name = "TIME", value_parser = time_or_none)]
    pub start_at: Option<Setting<UnixMs>>,
    /// Stop sending at this time, or `none` to remove the limit; recipients without a message by then expire
    #[arg(long, value_name = "TIME", value_parser = time_or_none)]
    pub expires_at: Option<Setting<UnixMs>>,
    /// The campaign's share of a line that several campaigns use, 1 to 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub priority: Option<u8>,
    /// Maximum messages per second over all lines, or `none` to remove the limit
    #[arg(long, value_name = "N", value_parser = rate_or_none)]
    pub rate: Option<Setting<f64>>,
    /// Send only during these hours, such as `09:00-20:00 America/Bogota mon,tue,wed,thu,fri`, or `none` for all hours
    #[arg(long, value_name = "HOURS ZONE [DAYS]", value_parser = window_or_none)]
    pub send_window: Option<Setting<SendWindow>>,
    /// What to do if no worker runs at the start time: send (start late), expire (send nothing) or hold (pause the
    /// campaign); possible until the campaign has started
    #[arg(long, value_name = "POLICY", value_parser = late())]
    pub late: Option<Late>,
}

/// `pregon campaign submit …`
#[derive(Args, Debug)]
pub struct SubmitOptions {
    /// The recipients: FILE.csv (a header with `to` and a column per parameter) or FILE.ndjson (one recipient per
    /// line), optionally compressed (FILE.csv.gz, .zst, .br), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The template; NAME/LANG also sets its language
    #[arg(long, value_name = "NAME")]
    pub template: String,
    /// The template's language, such as es_AR
    #[arg(long, value_name = "LANG")]
    pub language: Option<String>,
    /// A line to send on; repeat the option for more lines
    #[arg(long = "line", value_name = "ID", required = true, value_parser = line_id)]
    pub lines: Vec<LineId>,
    /// The name of the campaign [default: the name of the file]
    #[arg(long)]
    pub name: Option<String>,
    /// Your own id for the campaign; the same id never creates a second campaign [default: derived from template, lines
    /// and file, so that repeating an interrupted command continues it and sends nothing twice]
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// Submit a new campaign even if the same file was submitted before: its recipients get another message
    #[arg(long, conflicts_with = "external_id")]
    pub again: bool,
    /// Start at this time, such as 2026-11-22T09:00:00-03:00
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start_at: Option<UnixMs>,
    /// Stop sending at this time; recipients without a message by then expire
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub expires_at: Option<UnixMs>,
    /// The campaign's share of a line that several campaigns use, 1 to 10 [server's default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub priority: Option<u8>,
    /// Maximum messages per second over all lines [default: as many as the lines may send]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Send only during these hours, such as `09:00-20:00 America/Bogota mon,tue,wed,thu,fri` [default: all hours]
    #[arg(long, value_name = "HOURS ZONE [DAYS]", value_parser = window)]
    pub send_window: Option<SendWindow>,
    /// What to do if no worker runs at the start time: send (start late), expire (send nothing) or hold (pause the
    /// campaign) [server's default: send]
    #[arg(long, value_name = "POLICY", value_parser = late())]
    pub late: Option<Late>,
    /// What to do with a message whose outcome stays unknown: hold (do not send it again) or resend (send it again: the
    /// recipient may get it twice) [server's default: hold]
    #[arg(long, value_name = "POLICY", value_parser = on_doubt())]
    pub on_doubt: Option<OnDoubt>,
    /// What to do with a message that Meta withholds because the recipient gets too much marketing: fail, or retry (try
    /// once more a day later) [server's default: fail]
    #[arg(long, value_name = "POLICY", value_parser = on_withheld())]
    pub on_withheld: Option<OnWithheld>,
    /// The text of a quick-reply button that opts people out of marketing, or all:TEXT for all campaigns; repeat the
    /// option for more buttons
    #[arg(long = "opt-out-button", value_name = "TEXT", value_parser = opt_out_button)]
    pub opt_out_buttons: Vec<OptOutButton>,
    /// Skip recipients who have already had this many marketing messages from the business, such as 2/7 for 2 within 7
    /// days [default: only the cap of the business, if it has one]
    #[arg(long, value_name = "MESSAGES/DAYS", value_parser = frequency_cap)]
    pub frequency_cap: Option<FrequencyCap>,
    /// The group whose queue gets the chats that answers open
    #[arg(long, value_name = "GROUP")]
    pub reply_group: Option<String>,
    /// A tag for the chats of those who answer; repeat the option for more tags
    #[arg(long = "reply-tag", value_name = "TAG")]
    pub reply_tags: Vec<String>,
    /// CSV columns to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Launch only if at most this many rows were rejected; otherwise leave the campaign a draft
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    pub max_rejected: Option<u64>,
    /// Only check the file: show which rows would be rejected, and send nothing. The recipients are uploaded into a
    /// draft, which is deleted afterwards
    #[arg(long, conflicts_with_all = ["watch", "again", "external_id"])]
    pub dry_run: bool,
    /// Leave the campaign a draft
    #[arg(long)]
    pub no_launch: bool,
    /// Follow the campaign until it is completed
    #[arg(long, conflicts_with = "no_launch")]
    pub watch: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign upload …`
#[derive(Args, Debug)]
pub struct UploadOptions {
    /// The campaign: its id, or your external id
    pub id: CampaignName,
    /// The recipients, in a file as for `pregon campaign submit`. Uploading the same file again adds nobody
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// CSV columns to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Exit with 1 if more rows than this were rejected [default: only if no row was accepted]
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    pub max_rejected: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign recipients …`
#[derive(Args, Debug)]
pub struct RecipientsOptions {
    /// The campaign: its id, or your external id
    pub id: CampaignName,
    /// Only recipients in this state, such as failed
    #[arg(long, value_parser = recipient_state())]
    pub state: Option<&'static str>,
    /// Only the recipient with this number, such as +5491155550001
    #[arg(long, value_name = "PHONE", value_parser = phone, conflicts_with_all = ["state", "limit"])]
    pub to: Option<Phone>,
    /// The maximum number of recipients
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1..=u16::MAX))]
    pub limit: u16,
    #[command(flatten)]
    pub output: Output,
}
