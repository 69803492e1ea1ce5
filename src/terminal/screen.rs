//! Full-screen output for a command that redraws it: the alternate screen, and keys that are read without waiting for
//! Enter.
//!
//! Owns: the settings of the terminal from [`Screen::open`] until the drop, which restores them.
//! If the process dies: SIGKILL leaves the terminal in this state; the command `reset` restores it. Ctrl-C still sends
//! SIGINT.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::oneshot;

/// Switches to the alternate screen, and hides the cursor.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor, and returns to the screen as it was.
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves the cursor to the top left.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears everything below the cursor.
const CLEAR_BELOW: &str = "\x1b[J";

/// Rows and columns of a terminal that does not report its size.
const SIZE_DEFAULT: (usize, usize) = (24, 80);

/// The terminal while a command draws on it.
pub(super) struct Screen {
    before: Termios,
}

/// Whether a command can draw on the terminal and read its keys.
pub(super) fn is_available() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

impl Screen {
    /// Switches to the alternate screen and disables line input.
    ///
    /// Errors: the terminal refuses it.
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut own = before.clone();
        own.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &own)?;
        // Dropping this restores the settings.
        let screen = Self { before };
        write(OPEN)?;
        Ok(screen)
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => SIZE_DEFAULT,
        }
    }

    /// Draws `text` over what was there.
    ///
    /// Shape: at most as many lines as there are rows, none wider than the screen.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        let lines: Vec<String> = text.lines().map(|line| format!("{line}{CLEAR_LINE}")).collect();
        write(&format!("{HOME}{}{CLEAR_BELOW}", lines.join("\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        let _ = write(CLOSE);
    }
}

/// Waits until somebody presses q, or until the terminal is gone. Reads the keys on a separate thread, which may
/// continue to run afterwards.
pub(super) async fn quit_pressed() {
    let (pressed, waiting) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let is_q = |key: u8| key.eq_ignore_ascii_case(&b'q');
        let _key = io::stdin().lock().bytes().find(|key| key.as_ref().map_or(true, |key| is_q(*key)));
        // The receiver is gone if the command has ended.
        let _ = pressed.send(());
    });
    let _ = waiting.await;
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
