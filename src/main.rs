//! The command line: parse, call the library, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use pregon::{app, terminal::Arguments};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A usage error ends here, with exit code 2.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pregon: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(app::run(arguments.command));
    // What may be left is a blocking read of standard input that nobody waits for.
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
