//! Questions to the person at the terminal. They go to standard error, and the answers come from standard input, which
//! may be a pipe.
//!
//! If the process dies while a secret is typed: the terminal is left without echo; the command `reset` restores it.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::CommandError;
use crate::domain::Secret;

/// The keys that end a command, without the terminal's help: Ctrl-C and Ctrl-D.
const END_KEYS: [u8; 2] = [0x03, 0x04];
/// The keys that delete a character: Delete and Backspace.
const DELETE_KEYS: [u8; 2] = [0x7f, 0x08];

/// Asks for a line, and returns it without blanks around it.
///
/// Errors: standard input has ended.
pub fn line(question: &str) -> Result<String, CommandError> {
    show(question)?;
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        return Err(ended(question));
    }
    Ok(answer.trim().to_owned())
}

/// Asks whether to do something. Only `y` and `yes` are a yes.
///
/// Errors: standard input has ended.
pub fn confirm(question: &str) -> Result<bool, CommandError> {
    let answer = line(&format!("{question} [y/N]"))?;
    Ok(["y", "yes"].contains(&answer.to_lowercase().as_str()))
}

/// Asks for a secret, which is not shown while it is typed.
///
/// Errors: standard input has ended; the text can't be a secret.
pub fn secret(question: &str) -> Result<Secret, CommandError> {
    let answer = if io::stdin().is_terminal() { hidden_line(question)? } else { line(question)? };
    let secret = Secret::new(answer);
    match secret.flaw() {
        None => Ok(secret),
        Some(flaw) => Err(CommandError::Usage(format!("{question}: the answer {flaw}"))),
    }
}

fn hidden_line(question: &str) -> Result<String, CommandError> {
    let before = tcgetattr(io::stdin()).map_err(io::Error::from)?;
    let mut own = before.clone();
    // Without signals, so that Ctrl-C cannot end the process before the settings are restored.
    own.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
    tcsetattr(io::stdin(), OptionalActions::Now, &own).map_err(io::Error::from)?;
    let restore = Restore(before);
    show(question)?;
    let mut answer = Vec::new();
    for key in io::stdin().lock().bytes() {
        match key? {
            b'\n' | b'\r' => {
                drop(restore);
                eprintln!();
                return Ok(String::from_utf8_lossy(&answer).trim().to_owned());
            }
            key if END_KEYS.contains(&key) => break,
            key if DELETE_KEYS.contains(&key) => drop(answer.pop()),
            key => answer.push(key),
        }
    }
    Err(ended(question))
}

/// Restores the settings of the terminal when it is dropped.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn show(question: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}: ")?;
    stderr.flush()
}

fn ended(question: &str) -> CommandError {
    CommandError::Usage(format!(
        "there is no answer to \"{question}\": pass an option or variable of pregon setup --help"
    ))
}
