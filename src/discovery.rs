//! Reads from Meta what the configured businesses have there, and says how the configuration differs.
//!
//! If the process dies: nothing is lost; reads change nothing.
//! Never: changes which lines run, or anything at Meta. What Meta does not answer is reported as unreadable, and never
//! as missing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};

use crate::{
    api_types::{DiscoveredApp, DiscoveredBusiness, DiscoveredLine, DiscoveredWaba, Drift},
    domain::{BusinessId, Line, LineId, MetaLine, Secret, WabaId},
    graph::{GraphClient, GraphError, ListedLine, ListedWaba, Ownership, SendHealth, SubscribedApp},
};

/// How many WABAs are read at once, with two calls each.
const WABAS_AT_ONCE: usize = 4;

/// What Meta has of the businesses of `lines`, in the order of their ids.
pub async fn discover(graph: &GraphClient, lines: &[Line]) -> Vec<DiscoveredBusiness> {
    let mut businesses: BTreeMap<&BusinessId, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        businesses.entry(&line.business).or_default().push(line);
    }
    let mut discovered = Vec::with_capacity(businesses.len());
    for (id, lines) in businesses {
        let mut tokens: Vec<&Secret> = Vec::new();
        for line in &lines {
            if !tokens.contains(&&line.token) {
                tokens.push(&line.token);
            }
        }
        discovered.push(Business { id, lines, tokens }.discover(graph).await);
    }
    discovered
}

/// What Meta has of a business that is not configured, read with `token`.
pub async fn read_business(graph: &GraphClient, id: &BusinessId, token: &Secret) -> DiscoveredBusiness {
    Business { id, lines: Vec::new(), tokens: vec![token] }.discover(graph).await
}

/// The lines of a business, as far as Meta returned them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLines {
    /// The lines, by WABA and id. Where Meta did not answer, the last ones. `None`: Meta listed no WABA.
    pub lines: Option<Vec<MetaLine>>,
    /// What could not be read, and why.
    pub unreadable: Vec<String>,
}

/// The lines that a business has at Meta, read with `token`. `last`: those that were read before.
pub async fn read_lines(graph: &GraphClient, id: &BusinessId, token: &Secret, last: &[MetaLine]) -> ReadLines {
    let (wabas, drift) = Business { id, lines: Vec::new(), tokens: vec![token] }.candidates(graph).await;
    let mut unreadable: Vec<String> = drift.into_iter().map(|drift| drift.detail).collect();
    let lists_are_whole = unreadable.is_empty();
    if wabas.is_empty() && !lists_are_whole {
        return ReadLines { lines: None, unreadable };
    }
    let read = |waba: Candidate| {
        let graph = graph.clone();
        async move { (graph.lines(&waba.id, &waba.token).await, waba) }
    };
    let reads = wabas.into_values().map(read).collect::<Vec<_>>();
    let reads: Vec<_> = stream::iter(reads).buffered(WABAS_AT_ONCE).collect().await;
    let (mut lines, mut answered) = (Vec::new(), BTreeSet::new());
    for (read, waba) in &reads {
        match read {
            Ok(found) => {
                answered.insert(&waba.id);
                lines.extend(found.iter().map(|line| MetaLine {
                    id: line.id.clone(),
                    waba: waba.id.clone(),
                    is_owned: waba.ownership == Some(Ownership::Owned),
                    display: line.info.display_phone_number.clone(),
                    verified_name: line.info.verified_name.clone().unwrap_or_default(),
                }));
            }
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    let listed: BTreeSet<&WabaId> = reads.iter().map(|(_, waba)| &waba.id).collect();
    let found: BTreeSet<LineId> = lines.iter().map(|line| line.id.clone()).collect();
    let is_unknown = |line: &&MetaLine| {
        let is_gone = if listed.contains(&line.waba) { answered.contains(&line.waba) } else { lists_are_whole };
        !is_gone && !found.contains(&line.id)
    };
    lines.extend(last.iter().filter(is_unknown).cloned());
    lines.sort_by(|a, b| (&a.waba, &a.id).cmp(&(&b.waba, &b.id)));
    ReadLines { lines: Some(lines), unreadable }
}

/// A business as it is configured.
struct Business<'a> {
    id: &'a BusinessId,
    lines: Vec<&'a Line>,
    /// The access tokens that may read it, each once.
    tokens: Vec<&'a Secret>,
}

/// A WABA to read: what the lists of its business say of it, and the token that may read it.
#[derive(Clone)]
struct Candidate {
    id: WabaId,
    name: String,
    ownership: Option<Ownership>,
    is_configured: bool,
    token: Secret,
}

/// What Meta returned for a WABA.
struct ReadWaba {
    waba: Candidate,
    lines: Result<Vec<ListedLine>, GraphError>,
    apps: Result<Vec<SubscribedApp>, GraphError>,
}

impl Business<'_> {
    async fn discover(&self, graph: &GraphClient) -> DiscoveredBusiness {
        let (candidates, mut drift) = self.candidates(graph).await;
        let reads = candidates.into_values().map(|waba| read(graph.clone(), waba));
        // Collected first: the compiler cannot prove that a stream of borrowing futures is `Send`.
        let reads: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(WABAS_AT_ONCE).collect().await;
        let places: BTreeMap<&LineId, &WabaId> =
            reads.iter().flat_map(|read| read.lines.iter().flatten().map(|line| (&line.id, &read.waba.id))).collect();
        for read in &reads {
            drift.extend(self.drift(read, &places));
        }
        let wabas = reads.iter().map(|read| self.view(read)).collect();
        DiscoveredBusiness { id: self.id.clone(), wabas, drift }
    }

    /// The configured WABAs and those that Meta lists, and what is wrong with the lists.
    async fn candidates(&self, graph: &GraphClient) -> (BTreeMap<WabaId, Candidate>, Vec<Drift>) {
        let mut candidates: BTreeMap<WabaId, Candidate> = BTreeMap::new();
        for line in &self.lines {
            let (id, token) = (line.waba.clone(), line.token.clone());
            let candidate =
                Candidate { id: id.clone(), name: String::new(), ownership: None, is_configured: true, token };
            candidates.entry(id).or_insert(candidate);
        }
        let mut drift = Vec::new();
        for ownership in [Ownership::Owned, Ownership::Client] {
            match self.list(graph, ownership).await {
                Ok(listed) => {
                    for (waba, token) in listed {
                        let new = |id: WabaId| Candidate {
                            id,
                            name: String::new(),
                            ownership: None,
                            is_configured: false,
                            token,
                        };
                        let known = candidates.entry(waba.id.clone()).or_insert_with(|| new(waba.id));
                        known.name = waba.name;
                        known.ownership.get_or_insert(ownership);
                    }
                }
                Err(error) => drift.push(Drift {
                    kind: "unreadable".into(),
                    waba: None,
                    line: None,
                    detail: format!("{} can't be read: {error}", ownership.edge()),
                    remedy:
                        "check that the id of the [[business]] is that of its portfolio, and that an access token of \
                             its WABAs may use whatsapp_business_management and business_management"
                            .into(),
                }),
            }
        }
        if drift.is_empty() {
            drift.extend(candidates.values().filter(|waba| waba.ownership.is_none()).map(|waba| Drift {
                kind: "waba_not_of_business".into(),
                waba: Some(waba.id.clone()),
                line: None,
                detail: format!("Meta does not list WABA {} for business {}", waba.id, self.id),
                remedy: format!("set `business` of [[waba]] {} to the portfolio that owns it", waba.id),
            }));
        }
        (candidates, drift)
    }

    /// The WABAs that Meta lists, each with the first token that lists it. Different tokens may see different WABAs.
    ///
    /// Errors: the last one, if no token may read the list.
    async fn list(&self, graph: &GraphClient, ownership: Ownership) -> Result<Vec<(ListedWaba, Secret)>, GraphError> {
        let (mut listed, mut seen, mut read, mut failed) = (Vec::new(), BTreeSet::new(), false, None);
        for token in &self.tokens {
            match graph.wabas(self.id, ownership, token).await {
                Ok(wabas) => {
                    read = true;
                    let new = wabas.into_iter().filter(|waba| seen.insert(waba.id.clone()));
                    listed.extend(new.map(|waba| (waba, Secret::clone(token))));
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !read => Err(error),
            _ => Ok(listed),
        }
    }

    /// How the configuration differs from what Meta returned for a WABA. `places`: the WABA of each line at Meta.
    fn drift(&self, read: &ReadWaba, places: &BTreeMap<&LineId, &WabaId>) -> Vec<Drift> {
        let waba = &read.waba;
        let about = |kind: &'static str, line: Option<&LineId>, detail: String, remedy: String| Drift {
            kind: kind.into(),
            waba: Some(waba.id.clone()),
            line: line.cloned(),
            detail,
            remedy,
        };
        let mut drift = Vec::new();
        let failed = [read.lines.as_ref().err(), read.apps.as_ref().err()];
        for error in failed.into_iter().flatten() {
            let remedy = format!(
                "assign WABA {} to the system user of the access token, with whatsapp_business_management, if its \
                 lines are to send",
                waba.id
            );
            drift.push(about("unreadable", None, format!("{error}"), remedy));
        }
        if !waba.is_configured {
            let detail = format!("WABA {} is at Meta, and the configuration has no line of it", waba.id);
            let remedy = "add a [[waba]] and its [[line]]s, or its id to `include` of the [[business]], if they are to \
                          send; otherwise nothing is to be done";
            drift.push(about("waba_not_configured", None, detail, remedy.into()));
            return drift;
        }
        if read.subscribed() == Some(false) {
            let apps: Vec<String> = read.apps.iter().flatten().map(ToString::to_string).collect();
            let detail = match &apps[..] {
                [] => format!("no app is subscribed to WABA {}, so Meta sends no webhooks of it", waba.id),
                apps => format!(
                    "the app of the access token is not subscribed to WABA {}: its webhooks go to {}",
                    waba.id,
                    apps.join(", ")
                ),
            };
            let remedy = format!("subscribe the app: POST /{}/subscribed_apps with the access token", waba.id);
            drift.push(about("app_not_subscribed", None, detail, remedy));
        }
        let Ok(lines) = &read.lines else { return drift };
        for line in self.lines.iter().filter(|line| line.waba == waba.id) {
            let Some(found) = lines.iter().find(|found| found.id == line.id) else {
                drift.push(match places.get(&line.id) {
                    Some(other) => about(
                        "line_of_other_waba",
                        Some(&line.id),
                        format!("line {} is on WABA {other} at Meta, not on {}", line.id, waba.id),
                        format!("set `waba` of [[line]] {} to \"{other}\"", line.id),
                    ),
                    None => about(
                        "line_missing",
                        Some(&line.id),
                        format!("Meta has no line {} on WABA {}", line.id, waba.id),
                        format!(
                            "correct the id of [[line]] {}, or remove the line once its campaigns have ended",
                            line.id
                        ),
                    ),
                });
                continue;
            };
            for (kind, detail, remedy) in problems(found) {
                drift.push(about(kind, Some(&line.id), detail, remedy.to_owned()));
            }
        }
        for line in lines.iter().filter(|line| !self.lists(&line.id, &waba.id)) {
            if self.lines.iter().any(|configured| configured.id == line.id) {
                continue; // It is configured on another WABA, which is reported there.
            }
            let detail = format!("line {} ({}) is at Meta and not configured", line.id, line.info.display_phone_number);
            let remedy = "add a [[line]], or its id to `include` of the [[business]], if it is to send; otherwise \
                          nothing is to be done";
            drift.push(about("line_not_configured", Some(&line.id), detail, remedy.into()));
        }
        drift
    }

    /// Whether the configuration has this line on this WABA.
    fn lists(&self, line: &LineId, waba: &WabaId) -> bool {
        self.lines.iter().any(|configured| configured.id == *line && configured.waba == *waba)
    }

    fn view(&self, read: &ReadWaba) -> DiscoveredWaba {
        let waba = &read.waba;
        let ownership = waba.ownership.map(|ownership| match ownership {
            Ownership::Owned => "owned".into(),
            Ownership::Client => "client".into(),
        });
        let app = |app: &SubscribedApp| DiscoveredApp { id: app.id.clone(), name: app.name.clone() };
        let line = |line: &ListedLine| DiscoveredLine {
            configured: self.lists(&line.id, &waba.id),
            id: line.id.clone(),
            display: line.info.display_phone_number.clone(),
            verified_name: line.info.verified_name.clone(),
            name_status: line.name_status.clone(),
            code_verification: line.code_verification.clone(),
            status: line.info.status.clone(),
            quality: line.info.quality_rating.clone(),
            throughput: line.info.throughput_level.clone(),
            messaging_limit: line.info.messaging_limit.clone(),
            can_send: match line.info.health {
                SendHealth::Sends => Some(true),
                SendHealth::Blocked => Some(false),
                SendHealth::Unknown => None,
            },
        };
        DiscoveredWaba {
            id: waba.id.clone(),
            name: waba.name.clone(),
            ownership,
            configured: waba.is_configured,
            apps: read.apps.as_ref().ok().map(|apps| apps.iter().map(app).collect()),
            subscribed: read.subscribed(),
            lines: read.lines.iter().flatten().map(line).collect(),
        }
    }
}

impl ReadWaba {
    /// Whether the app of the token receives the webhooks. `None` if Meta did not say which app that is, or which apps
    /// receive them.
    fn subscribed(&self) -> Option<bool> {
        let apps = self.apps.as_ref().ok()?;
        if apps.is_empty() {
            return Some(false);
        }
        let own = self.lines.iter().flatten().find_map(|line| line.app.as_deref())?;
        Some(apps.iter().any(|app| app.id.as_deref() == Some(own)))
    }
}

async fn read(graph: GraphClient, waba: Candidate) -> ReadWaba {
    let (lines, apps) = tokio::join!(graph.lines(&waba.id, &waba.token), graph.subscribed_apps(&waba.id, &waba.token));
    ReadWaba { waba, lines, apps }
}

/// What Meta reports of a configured line that limits or stops it: kind, detail and remedy. Only values that are known
/// to do so count, because Meta adds values from time to time.
fn problems(line: &ListedLine) -> Vec<(&'static str, String, &'static str)> {
    let mut problems = Vec::new();
    if let Some(status @ ("DECLINED" | "EXPIRED" | "PENDING_REVIEW")) = line.name_status.as_deref() {
        problems.push((
            "name_not_approved",
            format!("the display name of line {} is not approved: {status}", line.id),
            "see the name in WhatsApp Manager: wait for the review, or enter another name",
        ));
    }
    if let Some(status @ ("NOT_VERIFIED" | "UNVERIFIED")) = line.code_verification.as_deref() {
        problems.push((
            "number_not_verified",
            format!("the number of line {} is not verified: {status}", line.id),
            "verify the number in WhatsApp Manager with the code that Meta sends to it",
        ));
    }
    if line.info.health == SendHealth::Blocked {
        problems.push((
            "line_blocked",
            format!("Meta does not let line {} send", line.id),
            "see the line in WhatsApp Manager for the reason",
        ));
    }
    problems
}
