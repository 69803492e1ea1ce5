//! `pregon-load`: parses the command line, calls the library and returns the exit code.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use pregon::terminal::{CommandError, arguments::Output};
use pregon_load::{bare::BareOptions, error::LoadError, meta::MetaOptions};

// The allocator of `pregon`, so that the baselines run under the same conditions.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure Pregón: run a scenario of loadtest/scenarios, or compare two reports
#[derive(Parser, Debug)]
#[command(name = "pregon-load", version, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A scenario, as a TOML file
    #[arg(value_name = "SCENARIO", required = true)]
    scenario: Option<PathBuf>,
    /// Write report.json, report.txt and the plots to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Compare two reports
    Compare {
        /// A report.json
        a: PathBuf,
        /// The report.json to compare it with
        b: PathBuf,
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

#[tokio::main]
async fn main() -> ExitCode {
    // A usage error ends here, with exit code 2.
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("pregon-load: {failure}");
            }
            failure.exit_code()
        }
    }
}

async fn run(Arguments { command, scenario, out, output }: Arguments) -> Result<(), CommandError> {
    match command {
        None => pregon_load::run(&scenario.unwrap_or_default(), out, output.json).await,
        Some(Command::Compare { a, b, output }) => pregon_load::compare(&a, &b, output.json),
        Some(Command::Meta(options)) => Ok(pregon_load::meta::run(options).await.map_err(LoadError::Io)?),
        Some(Command::Bare(options)) => Ok(pregon_load::bare::run(options).await.map_err(LoadError::Io)?),
        Some(Command::Baseline) => Ok(pregon_load::baseline::run().await.map_err(LoadError::Io)?),
    }
}
