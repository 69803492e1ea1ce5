//! Files that packages install beside the program: shell completions and man pages, generated from the command line
//! definition.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, CommandError};

/// Prints the completion script for `shell`.
pub fn completions(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pregon", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Writes a man page for the program and for each of its commands into `folder`, which is created if it is missing.
pub fn man(folder: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(folder)?;
    Ok(clap_mangen::generate_to(Arguments::command(), folder)?)
}
