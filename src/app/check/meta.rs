//! Checks each line and WABA at Meta: the line exists, its token may use it, it can send, and an app receives the
//! webhooks of its WABA. How else Meta and the configuration differ are warnings.

use std::{collections::HashMap, error::Error as _};

use futures_util::{StreamExt as _, stream};

use super::Check;
use crate::{
    api_types::DiscoveredBusiness,
    app::serve::{self, Found},
    config::{Config, GraphConfig, LineConfig, WabaConfig},
    discovery,
    domain::{MetaLine, Secret, WabaId},
    graph::{GraphClient, GraphError, LineInfo, SendHealth},
};

/// Concurrent calls to Meta.
const CALLS_AT_ONCE: usize = 8;

/// Reads each line and WABA of `config` from the Graph API.
pub(super) async fn check(config: &Config) -> Vec<Check> {
    let graph = match GraphClient::new(config.graph.client()) {
        Ok(graph) => graph,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return vec![Check::failed(
                "graph",
                format!("{error}{cause}"),
                "correct the section [graph] of the configuration",
            )];
        }
    };
    let tokens: HashMap<&WabaId, &Secret> = config.wabas.iter().map(|waba| (&waba.id, &waba.access_token)).collect();
    let checks = config.lines.iter().map(|line| {
        let token = tokens.get(&line.waba).expect("a configuration whose line names an unknown WABA is not loaded");
        ask_line(&graph, line, token)
    });
    // Collected first: the compiler cannot prove that a stream of borrowing futures is `Send`.
    let asked = stream::iter(checks.collect::<Vec<_>>()).buffered(CALLS_AT_ONCE).collect::<Vec<_>>().await;
    let checks = config.wabas.iter().map(|waba| ask_waba(&graph, waba, &config.graph));
    let wabas = stream::iter(checks.collect::<Vec<_>>()).buffered(CALLS_AT_ONCE).collect::<Vec<_>>().await;
    let (found, included) = include(&graph, config).await;
    let businesses = discovery::discover(&graph, &serve::lines(config, &found)).await;
    [asked, wabas, included, businesses.iter().map(business).collect()].concat()
}

/// Reads the lines of the businesses with `include`, and reports how many of them are chosen.
async fn include(graph: &GraphClient, config: &Config) -> (Found, Vec<Check>) {
    let (mut found, mut checks) = (Found::new(), Vec::new());
    for business in &config.businesses {
        let Some(token) = business.access_token.as_ref().filter(|_| !business.include.is_empty()) else { continue };
        let read = discovery::read_lines(graph, &business.id, token, &[]).await;
        let lines = read.lines.unwrap_or_default();
        let chosen = |entry: &str| lines.iter().filter(|line| line.is_chosen_by(entry)).count();
        let idle: Vec<&str> = business.include.iter().map(String::as_str).filter(|entry| chosen(entry) == 0).collect();
        let check = format!("include of business {}", business.id);
        checks.push(match &idle[..] {
            [] => {
                let is_chosen = |line: &&MetaLine| business.include.iter().any(|entry| line.is_chosen_by(entry));
                Check::ok(check, format!("lines: {}", lines.iter().filter(is_chosen).count()))
            }
            idle => Check::failed(
                check,
                [vec![format!("{} chooses none of its lines: {}", idle.join(", "), listed(&lines))], read.unreadable]
                    .concat()
                    .join("; "),
                "correct the entries of include, or check the access_token of the business and its permissions",
            ),
        });
        found.insert(business.id.clone(), lines);
    }
    (found, checks)
}

/// The ids and numbers of lines.
fn listed(lines: &[MetaLine]) -> String {
    let texts: Vec<String> = lines.iter().map(|line| format!("{} ({})", line.id, line.display)).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// Reports what a business has at Meta. Drift is a warning: what stops a configured line or its webhooks fails the
/// check of the line or the WABA.
fn business(business: &DiscoveredBusiness) -> Check {
    let lines = business.wabas.iter().map(|waba| waba.lines.len()).sum::<usize>();
    let warnings = business.drift.iter().map(|drift| format!("\nwarning: {}: {}", drift.detail, drift.remedy));
    let found = format!("WABAs: {}, lines: {lines}{}", business.wabas.len(), warnings.collect::<String>());
    Check::ok(format!("business {}", business.id), found)
}

/// Checks that an app is subscribed to a WABA. Without an app, Meta sends no webhooks for the lines of the WABA.
async fn ask_waba(graph: &GraphClient, waba: &WabaConfig, config: &GraphConfig) -> Check {
    let WabaConfig { id, access_token, .. } = waba;
    let name = format!("waba {id}");
    match graph.subscribed_apps(id, access_token).await {
        Ok(apps) if apps.is_empty() => Check::failed(
            name,
            "no app is subscribed to it, so Meta sends no webhooks and messages stay `accepted`",
            format!(
                "subscribe your app with the access token of this WABA: \
                 curl -X POST -H \"Authorization: Bearer $TOKEN\" {}/{}/{id}/subscribed_apps",
                config.base_url, config.version
            ),
        ),
        Ok(apps) => {
            let apps: Vec<String> = apps.iter().map(ToString::to_string).collect();
            Check::ok(name, format!("its webhooks go to: {}", apps.join(", ")))
        }
        Err(error) => {
            let refused = format!(
                "check that {id} is the id of a WhatsApp Business Account, and that its access_token is valid and may \
                 use whatsapp_business_management"
            );
            Check::failed(name, error.to_string(), remedy(id, &error, refused))
        }
    }
}

async fn ask_line(graph: &GraphClient, line: &LineConfig, token: &Secret) -> Check {
    let name = format!("line {}", line.id);
    match graph.line(&line.id, token).await {
        Ok(info) if may_send(&info) => Check::ok(name, summary(&info)),
        Ok(info) => Check::failed(
            name,
            summary(&info),
            "the line cannot send in this state: see WhatsApp Manager for the reason",
        ),
        Err(error) => {
            let LineConfig { id, waba, .. } = line;
            let refused = format!(
                "check that {id} is a phone_number_id of waba {waba}, and that its access_token is valid and may use \
                 whatsapp_business_management and whatsapp_business_messaging"
            );
            // The name of the check is the subject of the error.
            let text = error.to_string();
            let text = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text).to_owned();
            Check::failed(name, text, remedy(waba, &error, refused))
        }
    }
}

/// Whether the line can send in its state. Only states that are documented as unable to send fail the check, because
/// Meta adds states from time to time.
///
/// Source: the values of `status` in Meta's reference of the phone number node, read 2026-11-22.
fn may_send(info: &LineInfo) -> bool {
    let is_stopped = matches!(
        info.status.as_deref(),
        Some(
            "PENDING"
                | "DISCONNECTED"
                | "UNVERIFIED"
                | "BANNED"
                | "RESTRICTED"
                | "DELETED"
                | "MIGRATED"
                | "RATE_LIMITED"
        )
    );
    !is_stopped && info.health != SendHealth::Blocked
}

/// `+54 9 11 5555 0001 “Pregón Ventas”: CONNECTED, quality GREEN, throughput STANDARD, TIER_10K`
fn summary(info: &LineInfo) -> String {
    let name = info.verified_name.as_ref().map(|name| format!(" “{name}”")).unwrap_or_default();
    let facts = [
        ("", &info.status),
        ("quality ", &info.quality_rating),
        ("throughput ", &info.throughput_level),
        ("", &info.messaging_limit),
    ];
    let facts = facts.iter().filter_map(|(word, fact)| fact.as_ref().map(|fact| format!("{word}{fact}")));
    let blocked = (info.health == SendHealth::Blocked).then(|| "blocked by Meta".to_owned());
    let facts = facts.chain(blocked);
    format!("{}{name}: {}", info.display_phone_number, facts.collect::<Vec<_>>().join(", "))
}

/// The remedy for `error`. `refused` is the remedy if Meta refused the call.
fn remedy(waba: &WabaId, error: &GraphError, refused: String) -> String {
    match error {
        GraphError::Unreachable { .. } => {
            "let this machine reach graph.base_url, or correct graph.base_url; if a proxy in between does not support \
             HTTP/2, set graph.http_version = \"1.1\""
                .into()
        }
        GraphError::NotMeta { .. } => "set graph.base_url and graph.version to those of Meta's Graph API".into(),
        GraphError::BadToken(_) => {
            format!("correct the access_token of waba {waba}: it has a character that is not allowed in a header")
        }
        GraphError::Refused { .. } => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_summarized_by_the_fields_that_meta_returned() {
        let mut info = LineInfo {
            display_phone_number: "+54 9 11 5555 0001".into(),
            verified_name: Some("Pregón Ventas".into()),
            status: Some("CONNECTED".into()),
            quality_rating: None,
            throughput_level: Some("STANDARD".into()),
            messaging_limit: Some("TIER_10K".into()),
            health: SendHealth::Unknown,
        };
        assert_eq!(summary(&info), "+54 9 11 5555 0001 “Pregón Ventas”: CONNECTED, throughput STANDARD, TIER_10K");
        assert!(may_send(&info));
        info.status = Some("BANNED".into());
        assert!(!may_send(&info));
        info.status = None;
        assert!(may_send(&info), "a missing status is no failure");
        info.health = SendHealth::Blocked;
        assert!(!may_send(&info) && summary(&info).ends_with("TIER_10K, blocked by Meta"), "{}", summary(&info));
    }
}
