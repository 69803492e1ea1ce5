//! `pregon-load`: parses the command line, calls the library and returns the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use pregon::terminal::CommandError;
use pregon_load::{
    arguments::{Arguments, Command},
    error::LoadError,
};

// The allocator of `pregon`, so that the baselines run under the same conditions.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

async fn run(Arguments { command, run }: Arguments) -> Result<(), CommandError> {
    match command {
        None => pregon_load::run(run).await,
        Some(Command::List { output }) => pregon_load::list(output.json),
        Some(Command::Compare { a, b, thresholds, output }) => pregon_load::compare(&a, &b, &thresholds, output.json),
        Some(Command::Meta(options)) => Ok(pregon_load::meta::run(options).await.map_err(LoadError::Io)?),
        Some(Command::Bare(options)) => Ok(pregon_load::bare::run(options).await.map_err(LoadError::Io)?),
        Some(Command::Baseline) => Ok(pregon_load::baseline::run().await.map_err(LoadError::Io)?),
    }
}
