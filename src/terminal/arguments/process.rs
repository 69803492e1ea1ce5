//! The arguments of the commands that run, check or plan processes: `serve`, `sim`, `demo`, `check`,
//! `database`, `size`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use reqwest::Url;

use super::{
    Output,
    values::{hours, number, rate, share, statuses},
};
use crate::config::Role;

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
