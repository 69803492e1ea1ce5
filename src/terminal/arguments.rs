//! What may stand on the command line. The comments of this file are the program's help.
#![expect(missing_docs, reason = "a group of options that is shared has its help on its own type")]

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};
use reqwest::Url;

use crate::{
    client::{Client, ClientError},
    config::Role,
    domain::{CampaignId, CampaignState, LINE_RATE_MAX, LINE_RATE_MIN, LineId, Secret, UnixMs},
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
    Serve(ConfigOptions),
    /// Run a stand-in for Meta's Graph API, for tests and demonstrations
    Sim {
        /// A scenario: calm, rough, outage, or a TOML file
        #[arg(long, value_name = "FILE|NAME", default_value = "calm")]
        config: String,
        /// Where to listen
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
        listen: SocketAddr,
    },
    /// Send a campaign to the stand-in for Meta, and check the result
    Demo {
        /// Recipients of the campaign
        #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        recipients: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Submit campaigns, see how they do, stop them
    Campaign {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: CampaignCommand,
    },
    /// See and set the lines
    Line {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: LineCommand,
    },
    /// Check the configuration, and whether everything it names can be reached
    Check {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Tell what a load needs: lines, workers, Redis, network
    Size(SizeOptions),
}

/// `pregon size …`
#[derive(Args, Debug)]
pub struct SizeOptions {
    /// Recipients a day
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub recipients: u64,
    /// Lines there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub lines: u32,
    /// What each line may send in a second
    #[arg(long, value_name = "N", default_value_t = 80.0, value_parser = rate)]
    pub rate: f64,
    /// Share of that which campaigns leave for answers and inbound, 0 to 0.9
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub headroom: f64,
    /// Hours of the day in which is sent, up to 24
    #[arg(long, value_name = "HOURS", default_value_t = 10.0, value_parser = hours)]
    pub hours: f64,
    /// Bytes of a recipient's values
    #[arg(long, value_name = "BYTES", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub value_bytes: u32,
    /// Statuses that come for a message
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = statuses)]
    pub statuses: f64,
    /// Days that recipients are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=3_650))]
    pub retention_days: u32,
    /// Milliseconds until Meta answers
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=120_000))]
    pub answer_ms: u32,
    #[command(flatten)]
    pub output: Output,
}

/// Which configuration, and for what.
#[derive(Args, Debug)]
pub struct ConfigOptions {
    /// The configuration; without it the defaults and the environment (PREGON__…) are all there is
    #[arg(long, value_name = "FILE", env = "PREGON_CONFIG")]
    pub config: Option<PathBuf>,
    /// What this process does
    #[arg(long, value_delimiter = ',', default_value = "api,webhook,dispatch")]
    pub roles: Vec<Role>,
}

/// How the result is written.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Which server is asked.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerArguments {
    /// The server's address
    #[arg(long, global = true, value_name = "URL", env = "PREGON_SERVER", default_value = "http://127.0.0.1:8080")]
    server: Url,
    /// The key for its API (PREGON_API_KEY keeps it out of the list of processes)
    #[arg(long, global = true, value_name = "KEY", env = "PREGON_API_KEY", hide_env_values = true, value_parser = secret)]
    api_key: Option<Secret>,
    /// Trust the certificates of this PEM file and no others: for a server with a CA of your own
    #[arg(long, global = true, value_name = "FILE", env = "PREGON_CA")]
    ca: Option<PathBuf>,
}

impl ServerArguments {
    /// A client of that server.
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
    /// The campaigns, newest first
    List {
        /// Only those in this state: draft, scheduled, running, paused, completed, cancelled
        #[arg(long)]
        state: Option<CampaignState>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// One campaign with its statistics
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
    /// Send nothing more until it is resumed
    Pause(CampaignArguments),
    /// Go on with paused campaigns
    Resume(CampaignArguments),
    /// Never send what was not sent yet
    Cancel(CampaignArguments),
    /// Delete drafts, and campaigns that were cancelled before they started; nothing of them is left
    Delete(CampaignArguments),
    /// Every recipient with its outcome, as CSV
    Report {
        /// The campaign
        id: CampaignId,
        /// Write to this file instead of standard output; it appears when the report is whole
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// One campaign or more.
#[derive(Args, Debug)]
pub struct CampaignArguments {
    /// The campaigns
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<CampaignId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon campaign submit …`
#[derive(Args, Debug)]
pub struct SubmitOptions {
    /// The recipients: FILE.csv (a header with `to` and a column per parameter), FILE.ndjson (a recipient a line), either
    /// also compressed (FILE.csv.gz, .zst, .br), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The template; NAME/LANG names its language as well
    #[arg(long, value_name = "NAME")]
    pub template: String,
    /// The template's language, such as es_AR
    #[arg(long, value_name = "LANG")]
    pub language: Option<String>,
    /// A line that it may go out on; again for more
    #[arg(long = "line", value_name = "ID", required = true, value_parser = line_id)]
    pub lines: Vec<LineId>,
    /// What to call it; the name of the file unless given
    #[arg(long)]
    pub name: Option<String>,
    /// Your own id for it: the same id again never makes a second campaign [default: one made of template, lines and file, so
    /// that the same command again goes on where it was cut, and sends nothing twice]
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// Submit it as a new campaign, although the same file was submitted before: its recipients get another message
    #[arg(long, conflicts_with = "external_id")]
    pub again: bool,
    /// Not before this time, such as 2026-11-22T09:00:00-03:00
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start_at: Option<UnixMs>,
    /// What is not sent by then is not sent at all
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub expires_at: Option<UnixMs>,
    /// Its share of a line that it has to share, 1 to 10 [server's default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub priority: Option<u8>,
    /// A message whose fate stays unknown: hold (never two) or resend (rather two than none) [server's default: hold]
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["hold", "resend"]))]
    pub on_doubt: Option<String>,
    /// Columns of a CSV to leave out, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Launch it only if no more rows than this were rejected; otherwise it stays a draft
    #[arg(long, value_name = "N")]
    pub max_rejected: Option<u64>,
    /// Only check the file: say which rows would be rejected, and send nothing. The server takes the recipients into a draft for
    /// that, and deletes it at once
    #[arg(long, conflicts_with_all = ["watch", "again", "external_id"])]
    pub dry_run: bool,
    /// Leave it a draft
    #[arg(long)]
    pub no_launch: bool,
    /// Follow it until it is completed
    #[arg(long, conflicts_with = "no_launch")]
    pub watch: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon line …`
#[derive(Subcommand, Debug)]
pub enum LineCommand {
    /// The lines
    List {
        #[command(flatten)]
        output: Output,
    },
    /// One line
    Show {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        #[command(flatten)]
        output: Output,
    },
    /// Set how many messages a second a line may send
    Rate {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        /// Messages per second, 0.01 to 1000000
        #[arg(value_name = "N", required_unless_present = "default", value_parser = rate)]
        messages_per_second: Option<f64>,
        /// Back to the rate of the configuration
        #[arg(long, conflicts_with = "messages_per_second")]
        default: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Send nothing more on lines until they are resumed
    Pause(LineArguments),
    /// Go on with paused lines
    Resume(LineArguments),
}

/// One line or more.
#[derive(Args, Debug)]
pub struct LineArguments {
    /// The lines' phone_number_ids
    #[arg(required = true, value_name = "ID", value_parser = line_id)]
    pub ids: Vec<LineId>,
    #[command(flatten)]
    pub output: Output,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn line_id(text: &str) -> Result<LineId, String> {
    if text.is_empty() { Err("a line has a phone_number_id".into()) } else { Ok(text.into()) }
}

fn time(text: &str) -> Result<UnixMs, String> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "not a time with its offset, such as 2026-11-22T09:00:00-03:00".to_owned())?;
    u64::try_from(at.as_millisecond()).map(UnixMs).map_err(|_| "before 1970".into())
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_time_needs_its_offset() {
        assert_eq!(time("2026-11-22T09:00:00-03:00"), time("2026-11-22T12:00:00Z"));
        assert!(time("2026-11-22T09:00:00").is_err());
        assert!(time("tomorrow").is_err());
    }

    #[test]
    fn a_rate_is_one_that_a_line_can_have() {
        for good in ["0.01", "80", "1e6"] {
            assert!(rate(good).is_ok(), "{good}");
        }
        for bad in ["0", "-1", "1e-11", "1000001", "inf", "NaN", "fast"] {
            let told = "not a number from 0.01 to 1000000; `pregon line pause` stops a line";
            assert_eq!(rate(bad), Err(told.to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_key_is_shown_by_no_help_and_no_debug() {
        let arguments = Arguments::parse_from(["pregon", "line", "list", "--api-key", "s3cret"]);
        assert!(!format!("{arguments:?}").contains("s3cret"));
        let server = ServerArguments {
            server: "http://127.0.0.1:8080".parse().expect("a URL"),
            api_key: Some(Secret::new("s3cret ")),
            ca: None,
        };
        let Err(told) = server.client() else { panic!("a blank too much") };
        let told = told.to_string();
        assert!(told.starts_with("the API key (PREGON_API_KEY or --api-key) holds a blank"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        let mut command = Arguments::command();
        let line = command.find_subcommand_mut("line").expect("the command");
        assert!(line.render_long_help().to_string().contains("[env: PREGON_API_KEY]"));
    }
}
