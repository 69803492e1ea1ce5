//! Commands that act on several things, with one API call for each.

use std::{fmt::Display, io};

use super::{CommandError, remedy::with_remedy};
use crate::client::ClientError;

/// Runs `call` for each of `things`, and prints the result. A failure does not affect the others. If there are several
/// things, its message begins with the thing.
pub(super) async fn each<T: Display, R>(
    things: &[T],
    call: impl AsyncFn(&T) -> Result<R, ClientError>,
    print: impl Fn(&T, R) -> io::Result<()>,
) -> Result<(), CommandError> {
    let mut failed = false;
    for thing in things {
        match call(thing).await {
            Ok(answer) => print(thing, answer)?,
            Err(error) => {
                failed = true;
                let thing = if things.len() > 1 { format!("{thing}: ") } else { String::new() };
                eprintln!("pregon: {thing}{}", with_remedy(&error));
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}
