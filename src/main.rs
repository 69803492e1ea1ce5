//! The `pregon` binary: parses the command line, calls the library and sets the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use pregon::{app, terminal::Arguments};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Exits with code 2 on a usage error.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pregon: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(app::run(arguments.command));
    // Do not wait for blocking tasks: a read of standard input may never return.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("pregon: {failure}");
            }
            failure.exit_code()
        }
    }
}
