//! The arguments of the command line. The comments of this file are the program's help.
#![expect(missing_docs, reason = "a shared group of options has its help on its own type")]

use std::{convert::Infallible, fmt, net::SocketAddr, path::PathBuf};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use reqwest::Url;

use crate::{
    client::{Client, ClientError},
    config::Role,
    domain::{
        BusinessId, CampaignId, CampaignState, Day, EntryId, EventType, FrequencyCap, LINE_RATE_MAX, LINE_RATE_MIN,
        Language, Late, LineId, OnDoubt, OnWithheld, Phone, Secret, SendWindow, SuppressionReason, SuppressionScope,
        TimeOfDay, UnixMs, WabaId,
        campaign::{OptOutButton, RetriedState},
        phone::NotE164,
    },
};

/// Sends WhatsApp campaigns: nothing lost, nothing twice, counted exactly.
#[derive(Parser, Debug)]
#[command(name = "pregon", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a worker: the API, Meta's webhooks, sending
    Serve(ServeOptions),
    /// Run a simulator of Meta's Graph API, for tests and demonstrations
    Sim {
        /// A scenario: calm, rough, outage, week, or a TOML file
        #[arg(long, value_name = "FILE|NAME", default_value = "calm")]
        config: String,
        /// Where to listen
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
        listen: SocketAddr,
    },
    /// Send a campaign to the simulator of Meta's Graph API, and check the result
    Demo {
        /// Recipients of the campaign
        #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        recipients: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Submit, watch and control campaigns
    Campaign {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: CampaignCommand,
    },
    /// Read what happens: the event feed
    Event {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: EventCommand,
    },
    /// Show businesses, and how much of their messaging limits is used
    Business {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: BusinessCommand,
    },
    /// Show and lift holds: what must not be used for now, and why
    Hold {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: HoldCommand,
    },
    /// Show, retry and delete dead letters: jobs on the stream in Redis that failed
    Job {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Show and control lines
    Line {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: LineCommand,
    },
    /// Suppress people: those who want no messages of a business
    Suppression {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: SuppressionCommand,
    },
    /// Forget people
    Person {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: PersonCommand,
    },
    /// Control templates at Meta
    Template {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: TemplateCommand,
    },
    /// Pause all sending, until it is resumed; lines and campaigns keep their own pauses
    Pause(AllArguments),
    /// Resume all sending; lines and campaigns that were paused by themselves stay paused
    Resume(AllArguments),
    /// Check the configuration, and that everything it names can be reached
    Check {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Estimate what a workload needs: lines, workers, Redis, network
    Size(SizeOptions),
    /// Print the script that completes this command line in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command
    #[command(hide = true)]
    Man {
        /// The folder for them
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Exit with 0 if a process works: for container engines
    #[command(hide = true)]
    Health {
        /// Its health check
        #[arg(env = "PREGON_HEALTH_URL", default_value = "http://127.0.0.1:9464/healthz")]
        url: Url,
    },
}

/// `pregon pause …` and `pregon resume …`
#[derive(Args, Debug)]
pub struct AllArguments {
    #[command(flatten)]
    pub server: ServerArguments,
    /// Only the lines of this business
    #[arg(long, value_name = "ID", value_parser = business_id)]
    pub business: Option<BusinessId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon size …`
#[derive(Args, Debug)]
pub struct SizeOptions {
    /// Recipients per day
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub recipients: u64,
    /// Number of lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub lines: u32,
    /// Messages per second of each line
    #[arg(long, value_name = "N", default_value_t = 80.0, value_parser = rate)]
    pub rate: f64,
    /// Share of the rate that campaigns leave for replies and inbound messages, 0 to 0.9
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub headroom: f64,
    /// Hours of sending per day, up to 24
    #[arg(long, value_name = "HOURS", default_value_t = 10.0, value_parser = hours)]
    pub hours: f64,
    /// Size of a recipient's values
    #[arg(long, value_name = "BYTES", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub value_bytes: u32,
    /// Statuses for each message
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = statuses)]
    pub statuses: f64,
    /// Days that recipients are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=3_650))]
    pub retention_days: u32,
    /// Milliseconds until Meta answers a send
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=120_000))]
    pub answer_ms: u32,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon serve …`
#[derive(Args, Debug)]
pub struct ServeOptions {
    /// The configuration, and the roles that use it
    #[command(flatten)]
    pub config: ConfigOptions,
    /// A file that is there while the process serves: {"pid":N,"worker":NAME,"http":ADDRESS,"ops":ADDRESS}
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// The configuration, and the roles that use it.
#[derive(Args, Debug)]
pub struct ConfigOptions {
    /// The configuration file; without it, only the defaults and the environment (PREGON__…) apply
    #[arg(long, value_name = "FILE", env = "PREGON_CONFIG")]
    pub config: Option<PathBuf>,
    /// The roles of this process
    #[arg(long, value_delimiter = ',', default_value = "api,webhook,dispatch")]
    pub roles: Vec<Role>,
}

/// The format of the output.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The server to call.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerArguments {
    /// The server's address
    #[arg(long, global = true, value_name = "URL", env = "PREGON_SERVER", default_value = "http://127.0.0.1:8080")]
    server: Url,
    /// The key of the API (PREGON_API_KEY keeps it out of the process list)
    #[arg(long, global = true, value_name = "KEY", env = "PREGON_API_KEY", hide_env_values = true, value_parser = secret)]
    api_key: Option<Secret>,
    /// Trust only the certificates in this PEM file: for a server whose CA is your own
    #[arg(long, global = true, value_name = "FILE", env = "PREGON_CA")]
    ca: Option<PathBuf>,
}

impl ServerArguments {
    /// A client of the server.
    ///
    /// Errors: [`ClientError::Unusable`].
    pub fn client(self) -> Result<Client, ClientError> {
        let key = self.api_key.filter(|key| !key.expose().is_empty());
        if let Some(flaw) = key.as_ref().and_then(Secret::flaw) {
            return Err(ClientError::Unusable(format!("the API key (PREGON_API_KEY or --api-key) {flaw}")));
        }
        Client::new(self.server, key, self.ca.as_deref())
    }
}

/// `pregon campaign …`
#[derive(Subcommand, Debug)]
pub enum CampaignCommand {
    /// Submit a campaign with its recipients, and launch it
    Submit(Box<SubmitOptions>),
    /// List the campaigns, newest first
    List {
        /// Only campaigns in this state: draft, scheduled, running, paused, completed, cancelled
        #[arg(long)]
        state: Option<CampaignState>,
        /// The maximum number of campaigns
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show a campaign with its statistics
    Show {
        /// The campaign
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// Follow a campaign until it is completed or cancelled
    Watch {
        /// The campaign
        id: CampaignId,
        #[command(flatten)]
        output: Output,
    },
    /// Say what would happen if a campaign were launched now: problems, skipped people, cost, start and end
    Preflight {
        /// The campaign
        id: CampaignId,
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
    /// Write every recipient with its outcome, as CSV
    Report {
        /// The campaign
        id: CampaignId,
        /// Write to this file instead of standard output; the file appears once the report is complete
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// One or more campaigns.
#[derive(Args, Debug)]
pub struct CampaignArguments {
    /// The campaigns
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<CampaignId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign test …`
#[derive(Args, Debug)]
pub struct TestOptions {
    /// The campaign
    pub id: CampaignId,
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
    /// The campaign
    pub id: CampaignId,
    #[command(flatten)]
    pub values: ChangedValues,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign retry …`
#[derive(Args, Debug)]
pub struct RetryOptions {
    /// The campaign
    pub id: CampaignId,
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

/// The value of an option that `none` removes.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T>(pub Option<T>);

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
    #[arg(long, value_name = "N")]
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

/// `pregon event …`
#[derive(Subcommand, Debug)]
pub enum EventCommand {
    /// Print events as they happen
    Tail(TailOptions),
}

/// `pregon event tail …`
#[derive(Args, Debug)]
pub struct TailOptions {
    /// Only events of this type, such as recipient.read; repeat the option for more types
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type())]
    pub types: Vec<EventType>,
    /// Only events of this campaign
    #[arg(long, value_name = "ID")]
    pub campaign: Option<CampaignId>,
    /// Begin behind this position, the `id` of an event in GET /v1/events; 0 is the oldest event that is kept [default:
    /// new events]
    #[arg(long, value_name = "POSITION")]
    pub after: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon job …`
#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// List the dead letters, newest first
    List {
        /// The maximum number of dead letters
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show a dead letter with its whole job
    Show {
        /// The dead letter
        id: EntryId,
        #[command(flatten)]
        output: Output,
    },
    /// Retry the jobs of dead letters. A job that fails again becomes a new dead letter
    Retry(DeadLetterArguments),
    /// Delete dead letters
    Delete(DeadLetterArguments),
}

/// One or more dead letters.
#[derive(Args, Debug)]
pub struct DeadLetterArguments {
    /// The dead letters
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<EntryId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon business …`
#[derive(Subcommand, Debug)]
pub enum BusinessCommand {
    /// List the businesses of the configured lines
    List {
        #[command(flatten)]
        output: Output,
    },
}

/// `pregon hold …`
#[derive(Subcommand, Debug)]
pub enum HoldCommand {
    /// List what is held, and what ends each hold
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Lift holds: sending goes on at once. A hold whose cause persists returns with the next message
    Lift(HoldArguments),
}

/// One or more holds.
#[derive(Args, Debug)]
pub struct HoldArguments {
    /// The ids of the holds, such as line:3001
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon line …`
#[derive(Subcommand, Debug)]
pub enum LineCommand {
    /// List the lines
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show a line
    Show {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        #[command(flatten)]
        output: Output,
    },
    /// Set the rate of a line
    Rate {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        /// Messages per second, 0.01 to 1000000
        #[arg(value_name = "N", required_unless_present = "default", value_parser = rate)]
        messages_per_second: Option<f64>,
        /// Reset to the configured rate
        #[arg(long, conflicts_with = "messages_per_second")]
        default: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Pause lines: send nothing more on them until they are resumed
    Pause(LineArguments),
    /// Resume paused lines
    Resume(LineArguments),
}

/// One or more lines.
#[derive(Args, Debug)]
pub struct LineArguments {
    /// The lines' phone_number_ids
    #[arg(required = true, value_name = "ID", value_parser = line_id)]
    pub ids: Vec<LineId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon suppression …`
#[derive(Subcommand, Debug)]
pub enum SuppressionCommand {
    /// Suppress people: they get no more messages of the business, in running campaigns too
    Add(AddArguments),
    /// End suppressions: the people get messages of the business again
    Remove(PhoneArguments),
    /// Show the suppression of a person
    Show {
        /// The phone number, such as +5491155550001
        #[arg(value_parser = phone)]
        phone: Phone,
        #[command(flatten)]
        business: BusinessArgument,
        #[command(flatten)]
        output: Output,
    },
    /// List suppressions, in no particular order
    List {
        #[command(flatten)]
        business: BusinessArgument,
        /// The maximum number of suppressions
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Suppress the people of a list, of any length. It can be repeated
    Import(ImportOptions),
    /// Write all suppressions of a business, as CSV that can be imported
    Export {
        #[command(flatten)]
        business: BusinessArgument,
        /// Write to this file instead of standard output; the file appears once it is complete
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The business of suppressions.
#[derive(Args, Clone, Debug)]
pub struct BusinessArgument {
    /// The business; may be left out if the key sees only one
    #[arg(long, value_name = "ID", value_parser = business_id)]
    pub business: Option<BusinessId>,
}

/// `pregon suppression add …`
#[derive(Args, Debug)]
pub struct AddArguments {
    /// The phone numbers, such as +5491155550001
    #[arg(required = true, value_name = "PHONE", value_parser = phone)]
    pub phones: Vec<Phone>,
    #[command(flatten)]
    pub business: BusinessArgument,
    /// Which messages the people do not want: marketing, or all
    #[arg(long, value_parser = suppression_scope())]
    pub scope: SuppressionScope,
    /// Why [server's default: opt_out]
    #[arg(long, value_parser = suppression_reason())]
    pub reason: Option<SuppressionReason>,
    #[command(flatten)]
    pub output: Output,
}

/// One or more people.
#[derive(Args, Debug)]
pub struct PhoneArguments {
    /// The phone numbers, such as +5491155550001
    #[arg(required = true, value_name = "PHONE", value_parser = phone)]
    pub phones: Vec<Phone>,
    #[command(flatten)]
    pub business: BusinessArgument,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon person …`
#[derive(Subcommand, Debug)]
pub enum PersonCommand {
    /// Remove the numbers, values and messages of people everywhere; the statistics stay, and so do suppressions
    Forget {
        /// The phone numbers, such as +5491155550001
        #[arg(required = true, value_name = "PHONE", value_parser = phone)]
        phones: Vec<Phone>,
        #[command(flatten)]
        output: Output,
    },
}

/// `pregon suppression import …`
#[derive(Args, Debug)]
pub struct ImportOptions {
    /// The list: FILE.csv (a header with `phone`, and if wanted `scope`, `reason` and `since`) or FILE.ndjson (an object
    /// with these fields per line), optionally compressed (FILE.csv.gz, .zst, .br), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub business: BusinessArgument,
    /// The scope of rows that have none: marketing, or all
    #[arg(long, value_parser = suppression_scope())]
    pub scope: Option<SuppressionScope>,
    /// The reason of rows that have none [server's default: opt_out]
    #[arg(long, value_parser = suppression_reason())]
    pub reason: Option<SuppressionReason>,
    /// Columns of a CSV to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon template …`
#[derive(Subcommand, Debug)]
pub enum TemplateCommand {
    /// Ask Meta to lift the pause of templates, and go on sending them
    Unpause(TemplateArguments),
}

/// One or more templates.
#[derive(Args, Debug)]
pub struct TemplateArguments {
    /// The templates, such as 2001/order_update/es_AR; `pregon hold list` shows those that are held
    #[arg(required = true, value_name = "WABA/NAME/LANG", value_parser = template_id)]
    pub ids: Vec<TemplateId>,
    #[command(flatten)]
    pub output: Output,
}

/// A template on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateId {
    /// The WABA that owns it.
    pub waba: WabaId,
    /// Its name.
    pub name: String,
    /// Its language.
    pub language: Language,
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.waba, self.name, self.language)
    }
}

/// Takes the id of a hold too: `template:2001/order_update/es_AR`.
fn template_id(text: &str) -> Result<TemplateId, String> {
    let mut fields = text.strip_prefix("template:").unwrap_or(text).split('/');
    let fields = (fields.next(), fields.next(), fields.next(), fields.next());
    match fields {
        (Some(waba), Some(name), Some(language), None) if ![waba, name, language].contains(&"") => {
            Ok(TemplateId { waba: waba.into(), name: name.to_owned(), language: language.into() })
        }
        _ => Err("not a template, such as 2001/order_update/es_AR".into()),
    }
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn line_id(text: &str) -> Result<LineId, String> {
    if text.is_empty() { Err("a line has a phone_number_id".into()) } else { Ok(text.into()) }
}

fn business_id(text: &str) -> Result<BusinessId, String> {
    if text.is_empty() { Err("a business has an id".into()) } else { Ok(text.into()) }
}

fn time(text: &str) -> Result<UnixMs, String> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "not a time with its offset, such as 2026-11-22T09:00:00-03:00".to_owned())?;
    u64::try_from(at.as_millisecond()).map(UnixMs).map_err(|_| "before 1970".into())
}

fn time_or_none(text: &str) -> Result<Setting<UnixMs>, String> {
    if text == "none" { Ok(Setting(None)) } else { time(text).map(|at| Setting(Some(at))) }
}

fn window_or_none(text: &str) -> Result<Setting<SendWindow>, String> {
    if text == "none" { Ok(Setting(None)) } else { window(text).map(|window| Setting(Some(window))) }
}

/// `FROM-TO ZONE` and optionally days, separated by commas.
fn window(text: &str) -> Result<SendWindow, String> {
    let wrong = || "not like `09:00-20:00 America/Bogota` or `09:00-20:00 America/Bogota mon,tue`".to_owned();
    let mut words = text.split_whitespace();
    let (hours, zone, days) = (words.next().ok_or_else(wrong)?, words.next().ok_or_else(wrong)?, words.next());
    let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
    let [from, to] = [from, to].map(TimeOfDay::parse);
    let day = |name: &str| Day::ALL.into_iter().find(|day| day.name() == name);
    let days = days.map_or(Some(Day::ALL.to_vec()), |days| days.split(',').map(day).collect());
    let rest = words.next();
    let (Some(from), Some(to), Some(days), None) = (from, to, days, rest) else { return Err(wrong()) };
    Ok(SendWindow { from, to, days, zone: zone.to_owned() })
}

fn frequency_cap(text: &str) -> Result<FrequencyCap, String> {
    let numbers = text.split_once('/').and_then(|(messages, days)| Some((messages.parse().ok()?, days.parse().ok()?)));
    let cap = numbers.map(|(messages, days)| FrequencyCap { messages, days });
    let cap = cap.ok_or_else(|| "not like 2/7, for 2 messages in 7 days".to_owned())?;
    cap.problem().map_or(Ok(cap), Err)
}

fn rate_or_none(text: &str) -> Result<Setting<f64>, String> {
    if text == "none" { Ok(Setting(None)) } else { rate(text).map(|rate| Setting(Some(rate))) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (LINE_RATE_MIN..=LINE_RATE_MAX).contains(rate));
    rate.ok_or_else(|| {
        format!("not a number from {LINE_RATE_MIN} to {LINE_RATE_MAX}; `pregon line pause` stops a line")
    })
}

fn statuses(text: &str) -> Result<f64, String> {
    let statuses = text.parse().ok().filter(|statuses| (0.0..=100.0).contains(statuses));
    statuses.ok_or_else(|| "not a number from 0 to 100".into())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.9).contains(share));
    share.ok_or_else(|| "not a number from 0 to 0.9".into())
}

fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| *hours > 0.0 && *hours <= 24.0);
    hours.ok_or_else(|| "not a number above 0 and up to 24".into())
}

fn phone(text: &str) -> Result<Phone, NotE164> {
    text.parse()
}

fn suppression_scope() -> impl TypedValueParser<Value = SuppressionScope> {
    let find = |name: &str| SuppressionScope::ALL.into_iter().find(|scope| scope.name() == name);
    PossibleValuesParser::new(SuppressionScope::ALL.map(SuppressionScope::name))
        .try_map(move |name| find(&name).ok_or("not a scope"))
}

fn suppression_reason() -> impl TypedValueParser<Value = SuppressionReason> {
    let find = |name: &str| SuppressionReason::ALL.into_iter().find(|reason| reason.name() == name);
    PossibleValuesParser::new(SuppressionReason::ALL.map(SuppressionReason::name))
        .try_map(move |name| find(&name).ok_or("not a reason"))
}

fn event_type() -> impl TypedValueParser<Value = EventType> {
    let names = EventType::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<EventType>())
}

fn late() -> impl TypedValueParser<Value = Late> {
    let names = Late::ALL.map(Late::name);
    let choice = |name: String| Late::ALL.into_iter().find(|late| late.name() == name).ok_or("one of the names above");
    PossibleValuesParser::new(names).try_map(choice)
}

fn on_doubt() -> impl TypedValueParser<Value = OnDoubt> {
    let names = [OnDoubt::Hold, OnDoubt::Resend].map(OnDoubt::name);
    PossibleValuesParser::new(names)
        .map(|name| if name == OnDoubt::Resend.name() { OnDoubt::Resend } else { OnDoubt::Hold })
}

fn on_withheld() -> impl TypedValueParser<Value = OnWithheld> {
    let names = [OnWithheld::Fail, OnWithheld::Retry].map(OnWithheld::name);
    PossibleValuesParser::new(names)
        .map(|name| if name == OnWithheld::Retry.name() { OnWithheld::Retry } else { OnWithheld::Fail })
}

fn opt_out_button(text: &str) -> Result<OptOutButton, Infallible> {
    let stops_all = text.strip_prefix("all:");
    let scope = if stops_all.is_some() { SuppressionScope::All } else { SuppressionScope::Marketing };
    Ok(OptOutButton { text: stops_all.unwrap_or(text).to_owned(), scope })
}

fn retried_state() -> impl TypedValueParser<Value = RetriedState> {
    PossibleValuesParser::new(RetriedState::ALL.map(RetriedState::name))
        .map(|name| if name == RetriedState::Failed.name() { RetriedState::Failed } else { RetriedState::Unknown })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_time_needs_its_offset() {
        assert_eq!(time("2026-11-22T09:00:00-03:00"), time("2026-11-22T12:00:00Z"));
        assert!(time("2026-11-22T09:00:00").is_err());
        assert!(time("tomorrow").is_err());
    }

    #[test]
    fn a_template_has_a_waba_a_name_and_a_language() {
        let id = TemplateId { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
        for good in ["2001/order_update/es_AR", "2001/order_update/es-AR", "template:2001/order_update/es_AR"] {
            assert_eq!(template_id(good), Ok(id.clone()), "{good}");
        }
        for bad in ["", "order_update", "2001/order_update", "2001//es_AR", "2001/order_update/es_AR/x"] {
            assert!(template_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_outside_the_range_of_lines_is_rejected() {
        for good in ["0.01", "80", "1e6"] {
            assert!(rate(good).is_ok(), "{good}");
        }
        for bad in ["0", "-1", "1e-11", "1000001", "inf", "NaN", "fast"] {
            let error = "not a number from 0.01 to 1000000; `pregon line pause` stops a line";
            assert_eq!(rate(bad), Err(error.to_owned()), "{bad}");
        }
    }

    #[test]
    fn an_api_key_never_appears_in_help_debug_output_or_errors() {
        let arguments = Arguments::parse_from(["pregon", "line", "list", "--api-key", "s3cret"]);
        assert!(!format!("{arguments:?}").contains("s3cret"));
        let server = ServerArguments {
            server: "http://127.0.0.1:8080".parse().expect("a URL"),
            api_key: Some(Secret::new("s3cret ")),
            ca: None,
        };
        let Err(error) = server.client() else { panic!("the key ends with a blank") };
        let error = error.to_string();
        assert!(error.starts_with("the API key (PREGON_API_KEY or --api-key) contains a blank"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        let mut command = Arguments::command();
        let line = command.find_subcommand_mut("line").expect("the command");
        assert!(line.render_long_help().to_string().contains("[env: PREGON_API_KEY]"));
    }
}
