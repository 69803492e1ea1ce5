//! The arguments of the commands that set up, run, check or plan processes: `setup`, `serve`, `sim`, `demo`, `check`,
//! `database`, `size`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use reqwest::Url;

use super::{
    Output,
    values::{hours, number, rate, share, statuses, template_name},
};
use crate::{
    config::Role,
    domain::{BusinessId, Phone},
};

/// `pregon size …`
#[derive(Args, Debug)]
pub struct SizeOptions {
    /// Recipients per day
    #[arg(long, value_name = "N", value_parser = number(1..=10_000_000_000_u64))]
    pub recipients: u64,
    /// Number of lines
    #[arg(long, value_name = "N", value_parser = number(1..=1_000_000_u32))]
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
    /// Size of the parameter values of a recipient
    #[arg(long, value_name = "BYTES", default_value_t = 30, value_parser = number(0..=65_536_u32))]
    pub value_bytes: u32,
    /// Statuses that Meta reports for each message
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = statuses)]
    pub statuses: f64,
    /// Days that recipients are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = number(0..=3_650_u32))]
    pub retention_days: u32,
    /// Milliseconds until Meta answers a send
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = number(0..=120_000_u32))]
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
    /// Write this file when the process serves, and remove it at the end:
    /// {"pid":N,"worker":NAME,"http":ADDRESS,"ops":ADDRESS}
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// What `pregon setup --help` says besides the options.
const SECRETS: &str = "\
Asks for what is not given. Secrets come from PREGON_TOKEN (of a system user) and
PREGON_APP_SECRET, and the configuration then names the variable; otherwise it asks for
them, and writes each to a file beside the configuration.";

/// `pregon setup …`
#[derive(Args, Debug)]
#[command(after_help = SECRETS)]
pub struct SetupOptions {
    /// The configuration file to write
    #[arg(long, value_name = "FILE", default_value = "pregon.toml")]
    pub config: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Meta's id of the business portfolio
    #[arg(long, value_name = "ID")]
    pub business: Option<BusinessId>,
    /// The ids of the lines that are to send, or all
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub lines: Vec<String>,
    /// The Redis to use, such as redis://127.0.0.1:6379, or spawn:./data for a private one
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Send the webhooks of the WABAs to this URL instead of the app's callback; it must answer already
    #[arg(long, value_name = "URL")]
    pub callback: Option<Url>,
    /// Your own phone number, which gets a first message
    #[arg(long, value_name = "PHONE")]
    pub to: Option<Phone>,
    /// The template of the first message, one without parameters
    #[arg(long, value_name = "NAME/LANG", default_value = "hello_world/en_US", value_parser = template_name)]
    pub template: (String, String),
    /// Answer yes to every question about a change at Meta, and ask for no number
    #[arg(long)]
    pub yes: bool,
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

/// `pregon database …`
#[derive(Subcommand, Debug)]
pub enum DatabaseCommand {
    /// Create the tables, or apply the migrations that are missing
    Migrate(DatabaseOptions),
    /// Show which migrations are applied
    Status(DatabaseOptions),
}

/// The options of `pregon database …`
#[derive(Args, Debug)]
pub struct DatabaseOptions {
    /// The configuration file, of which only `database` is used; without it, the environment (PREGON__DATABASE__URL)
    #[arg(long, value_name = "FILE", env = "PREGON_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon sim …`
#[derive(Args, Debug)]
pub struct SimOptions {
    /// A scenario: calm, rough, outage, week, or a TOML file
    #[arg(long, value_name = "FILE|NAME", default_value = "calm")]
    pub config: String,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Where to send the webhooks [default: the URL in the scenario, in the built-in ones
    /// http://127.0.0.1:8080/webhooks/meta]
    #[arg(long, value_name = "URL")]
    pub webhook: Option<Url>,
}

/// `pregon demo …`
#[derive(Args, Debug)]
pub struct DemoOptions {
    /// Recipients of the campaign
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = number(1..=1_000_000_u32))]
    pub recipients: u32,
    #[command(flatten)]
    pub output: Output,
}
