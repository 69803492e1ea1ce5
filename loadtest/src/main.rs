//! `pregon-load`: parse the command line, call the library, exit code.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use pregon::terminal::{CommandError, arguments::Output};
use pregon_load::{bare::BareOptions, error::LoadError, meta::MetaOptions};

// That of `pregon`: what it is compared with must have the same.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure Pregón: play a scenario of loadtest/scenarios, or compare two reports
#[derive(Parser, Debug)]
#[command(name = "pregon-load", version, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The scenario, a TOML file
    #[arg(value_name = "SCENARIO", required = true)]
    scenario: Option<PathBuf>,
    /// Put report.json, report.txt and the plots into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Two reports side by side
    Compare {
        /// A report.json
        a: PathBuf,
        /// And another one
        b: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// The Meta of a load test: started by it
    #[command(hide = true)]
    Meta(MetaOptions),
    /// The bare loop of a load test: started by it
    #[command(hide = true)]
    Bare(BareOptions),
    /// The handler that only checks signatures of a load test: started by it
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
