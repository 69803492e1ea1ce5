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

/// `pregon campaign …`
#[derive(Subcommand, Debug)]
pub enum CampaignCommand {
    /// Submit a campaign with its recipients, and launch it
    Submit(Box<SubmitOptions>),
    /// Upload recipients into a campaign that has not started
    Upload(UploadOptions),
    /// Launch drafts: send them now, or from their start time on
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
    /// Say what would happen if a campaign were launched now: problems, skipped people, cost, start and end
    Preflight {
        /// The campaign: its id, or your external id
        id: CampaignName,
        #[command(flatten)]
        output: Output,
    },
    /// Send the message of a campaign to a few numbers now, with the values of its first recipients
    Test(TestOptions),
    /// Change the times, the priority or the rate of a campaign that has not ended
    Change(ChangeOptions),
    /// Pause campaigns: send nothing more until they are resumed
    Pause(CampaignArguments),
    /// Resume paused campaigns
    Resume(CampaignArguments),
    /// Cancel campaigns: never send what is not sent yet
    Cancel(CampaignArguments),
    /// Send a completed campaign again to those who did not get it, with the values that they had
    Retry(RetryOptions),
    /// Delete drafts and ended campaigns, with all their data and statistics
    Delete(CampaignArguments),
    /// List the recipients of a campaign, with their states
    Recipients(RecipientsOptions),
    /// Write every recipient with its outcome, as CSV
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
    /// The states of the recipients to send to again: failed, unknown or both. The message of an unknown one may have
    /// arrived
    #[arg(long, value_name = "STATES", value_delimiter = ',', required = true, value_parser = retried_state())]
    pub states: Vec<RetriedState>,
    /// Only recipients that failed with one of these error codes, such as 131042
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
    /// Start at this time, such as 2026-11-22T09:00:00-03:00, or `none` to start a scheduled campaign now; only before it
    /// starts
    #[arg(long, value_name = "TIME", value_parser = time_or_none)]
    pub start_at: Option<Setting<UnixMs>>,
    /// Send nothing after this time, or `none`; recipients that are left expire
    #[arg(long, value_name = "TIME", value_parser = time_or_none)]
    pub expires_at: Option<Setting<UnixMs>>,
    /// The share of a line that several campaigns use, 1 to 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub priority: Option<u8>,
    /// The most messages per second over all lines, or `none`
    #[arg(long, value_name = "N", value_parser = rate_or_none)]
    pub rate: Option<Setting<f64>>,
    /// Send only at these hours, such as `09:00-20:00 America/Bogota mon,tue,wed,thu,fri`, or `none`
    #[arg(long, value_name = "HOURS ZONE [DAYS]", value_parser = window_or_none)]
    pub send_window: Option<Setting<SendWindow>>,
    /// What to do if no worker runs at the start: send (start late), expire or hold; only before it starts
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
    /// A line that may send the campaign; repeat the option for more lines
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
    /// Send nothing after this time; recipients that are left expire
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub expires_at: Option<UnixMs>,
    /// The share of a line that several campaigns use, 1 to 10 [server's default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub priority: Option<u8>,
    /// The most messages per second over all lines [default: as many as the lines may send]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Send only at these hours, such as `09:00-20:00 America/Bogota mon,tue,wed,thu,fri` [default: at all hours]
    #[arg(long, value_name = "HOURS ZONE [DAYS]", value_parser = window)]
    pub send_window: Option<SendWindow>,
    /// What to do if no worker runs at the start: send (start late), expire (send nothing) or hold (pause the campaign)
    /// [server's default: send]
    #[arg(long, value_name = "POLICY", value_parser = late())]
    pub late: Option<Late>,
    /// What to do with a message whose outcome stays unknown: hold (never send it again) or resend (send it again, so
    /// that the recipient may get it twice) [server's default: hold]
    #[arg(long, value_name = "POLICY", value_parser = on_doubt())]
    pub on_doubt: Option<OnDoubt>,
    /// What to do with a message that Meta withholds because its recipient gets much marketing: fail, or retry (send it
    /// once more a day later) [server's default: fail]
    #[arg(long, value_name = "POLICY", value_parser = on_withheld())]
    pub on_withheld: Option<OnWithheld>,
    /// A quick-reply button of the template with which people opt out, by its text; may be repeated. It stops marketing;
    /// with `all:` before the text, all messages of campaigns
    #[arg(long = "opt-out-button", value_name = "TEXT", value_parser = opt_out_button)]
    pub opt_out_buttons: Vec<OptOutButton>,
    /// Skip whoever has had so many marketing messages of the business in so many days, such as 2/7 for 2 in 7 days
    /// [default: only the cap of the business, if it has one]
    #[arg(long, value_name = "MESSAGES/DAYS", value_parser = frequency_cap)]
    pub frequency_cap: Option<FrequencyCap>,
    /// Columns of a CSV to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Launch only if at most this many rows were rejected; otherwise the campaign stays a draft
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    pub max_rejected: Option<u64>,
    /// Only check the file: show which rows would be rejected, and send nothing. The recipients are uploaded into a
    /// draft, which is deleted at once
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
    /// The recipients, as for `pregon campaign submit`. The same file adds nobody twice
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Columns of a CSV to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Exit with 1 if more rows were rejected [default: only if no row was accepted]
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
