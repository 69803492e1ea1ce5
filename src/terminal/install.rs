//! What a package has beside the program, made from the definition of the command line: completions of shells, man pages.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, CommandError};

/// Prints the script that completes the command line in `shell`.
pub fn completions(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pregon", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Writes a man page for the program and for each of its commands into `folder`, which is made if it is missing.
pub fn man(folder: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(folder)?;
    Ok(clap_mangen::generate_to(Arguments::command(), folder)?)
}
