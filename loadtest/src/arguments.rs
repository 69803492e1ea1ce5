//! The arguments of the command line. The comments of this file are the program's help.
#![expect(missing_docs, reason = "a shared group of options has its help on its own type")]

use std::{convert::Infallible, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use pregon::{
    domain::{LineId, Secret},
    terminal::arguments::{Output, number},
};
use reqwest::Url;

use super::{bare::BareOptions, compare::Threshold, meta::MetaOptions, scenario::Override};

/// Below the options. `loadtest/tests/load.rs` runs them.
const EXAMPLES: &str = "\
Examples:
  pregon-load list
  pregon-load start --set start.rounds=1 --seed 7 --save-baseline a.json
  pregon-load start --set start.rounds=1 --baseline a.json --threshold 900
  pregon-load compare a.json a.json";

/// Measures Pregón: runs a scenario and reports whether its goals are reached
#[derive(Parser, Debug)]
#[command(name = "pregon-load", version, disable_help_subcommand = true, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunOptions,
}

/// What to run, and where the report goes.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// A scenario: a name of `pregon-load list`, or a TOML file
    #[arg(value_name = "NAME|FILE", required = true)]
    pub scenario: Option<PathBuf>,
    /// Replace a value: dispatch.recipients=1e5
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<Override>,
    /// The seed of the recipients
    #[arg(long, value_name = "N", value_parser = number(0..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Write the report there: HTML, JSON, text and SVG
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Exit with 1 if a figure is worse than there
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Write the report, unless a figure is worse
    #[arg(long, value_name = "FILE")]
    pub save_baseline: Option<PathBuf>,
    /// How much is worse [default: 10]; also p99_ms=25
    #[arg(long = "threshold", value_name = "PERCENT", requires = "baseline")]
    pub thresholds: Vec<Threshold>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub target: TargetOptions,
}

/// A running deployment to measure.
#[derive(Args, Debug)]
#[command(next_help_heading = "A running deployment (latency and ramp)")]
pub struct TargetOptions {
    /// The address of its API
    #[arg(long, value_name = "URL", requires = "lines")]
    pub target: Option<Url>,
    /// Its key; better in PREGON_API_KEY
    #[arg(long, value_name = "KEY", env = "PREGON_API_KEY", hide_env = true, value_parser = secret)]
    pub api_key: Option<Secret>,
    /// A line to send on; may be repeated
    #[arg(long = "line", value_name = "LINE", requires = "target")]
    pub lines: Vec<LineId>,
    /// The template to send
    #[arg(long, value_name = "NAME/LANG", default_value = "order_update/es_AR")]
    pub template: String,
    /// Its simulator
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub sim: Url,
    /// The /metrics of a worker; may be repeated
    #[arg(long, value_name = "URL")]
    pub metrics: Vec<Url>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// What to do instead of running a scenario.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List the scenarios that come with the program
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Compare two reports
    Compare {
        /// A report.json
        a: PathBuf,
        /// The report.json to compare it with
        b: PathBuf,
        /// Exit with 1 if a figure of B is worse by more than this, in percent
        #[arg(long = "threshold", value_name = "PERCENT")]
        thresholds: Vec<Threshold>,
        #[command(flatten)]
        output: Output,
    },
    /// The fake Meta of a load test, which starts it
    #[command(hide = true)]
    Meta(MetaOptions),
    /// The bare loop of a load test, which starts it
    #[command(hide = true)]
    Bare(BareOptions),
    /// The signature-only webhook handler of a load test, which starts it
    #[command(hide = true)]
    Baseline,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_its_help_fits_on_a_screen() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_help().to_string();
        assert!(help.lines().count() <= 45, "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
