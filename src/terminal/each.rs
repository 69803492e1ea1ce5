//! Commands that act on several things, with one API call for each.

use std::{fmt::Display, io};

use super::{CommandError, remedy::with_remedy};
use crate::client::ClientError;

/// Runs `call` for each of `things`, and prints the result. A failure does not affect the others. Its message begins
/// with `kind`, which is empty or ends with a space, and the thing.
pub(super) async fn each<T: Display, R>(
    kind: &str,
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
                eprintln!("pregon: {}", of(kind, &thing.to_string(), &with_remedy(&error)));
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}

/// `text` under the thing that it is about, unless it names that itself.
fn of(kind: &str, thing: &str, text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let mut words = first.split_whitespace().map(|word| word.trim_end_matches([':', ',', ';']));
    if words.any(|word| word == thing) {
        text.to_owned()
    } else if first.starts_with(kind) {
        format!("{thing}: {text}")
    } else {
        format!("{kind}{thing}: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_thing_once() {
        let texts = [
            ("campaign 01J9 is a draft: it can't be paused", "crm-77: campaign 01J9 is a draft: it can't be paused"),
            ("campaign crm-77 is a draft", "campaign crm-77 is a draft"),
            ("redis is not available", "campaign crm-77: redis is not available"),
        ];
        for (text, shown) in texts {
            assert_eq!(of("campaign ", "crm-77", text), shown);
        }
        assert_eq!(of("", "+5491155550001", "redis is not available"), "+5491155550001: redis is not available");
    }
}
