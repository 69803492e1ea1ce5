//! `health`: asks a process whether it is healthy. For container health checks: the image contains no other HTTP
//! client.

use std::time::Duration;

use reqwest::Url;

use super::CommandError;
use crate::client;

/// Less than the timeout of the Dockerfile's HEALTHCHECK, so that the reason is shown.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the health endpoint at `url`.
///
/// Errors: `Failed` if it does not answer, or answers anything but 2xx.
pub async fn check(url: Url) -> Result<(), CommandError> {
    let asked = async { client::http().timeout(TIMEOUT).build()?.get(url.clone()).send().await };
    let answer = asked.await.map_err(|_| CommandError::Failed(format!("{url} does not answer")))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(CommandError::Failed(format!("{url} answers {}", status.as_u16()))),
    }
}
