//! Publishes changes of holds, of the states of lines, and of the status of templates at Meta. Every second it compares
//! the current states with those published last.
//!
//! A state that lasts for less than a second may be missed.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    domain::{BusinessId, Event, EventType, Hold, HoldScope, LineId, Lines, Live, MetaCode, Template, UnixMs, WabaId},
    redis::{Result, Store, clock::Clock},
    stats::{
        StatisticsReader,
        line::{LineSnapshot, Stop},
    },
    telemetry::metrics,
};

/// How often the comparison is made.
const EVERY: Duration = Duration::from_secs(1);

/// Compares the current states with those published last.
pub(super) struct Observer {
    lines: Live<Lines>,
    compared_at: Option<Instant>,
    /// The templates of each WABA, with the time of the sync that found them.
    templates: HashMap<WabaId, (UnixMs, Vec<Template>)>,
}

/// States of subjects, as the texts that are compared and stored.
type States = BTreeMap<Subject, String>;

/// A subject whose state is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// A hold, by the name of its scope. The text is the hold as JSON.
    Hold(String),
    /// A line. The text is its state.
    Line(LineId),
    /// A template, by WABA, name and language. The text is its status.
    Template(WabaId, String, String),
}

impl Subject {
    /// The field in which its text is stored.
    fn field(&self) -> String {
        match self {
            Subject::Hold(scope) => format!("hold:{scope}"),
            Subject::Line(line) => format!("line:{line}"),
            Subject::Template(waba, name, language) => format!("template:{waba}/{name}/{language}"),
        }
    }

    /// The subject of a field; `None` for other fields.
    fn of_field(field: &str) -> Option<Self> {
        let (kind, rest) = field.split_once(':')?;
        match kind {
            "hold" => Some(Subject::Hold(rest.to_owned())),
            "line" => Some(Subject::Line(rest.into())),
            "template" => {
                let mut names = rest.splitn(3, '/');
                let (waba, name, language) = (names.next()?, names.next()?, names.next()?);
                Some(Subject::Template(waba.into(), name.to_owned(), language.to_owned()))
            }
            _ => None,
        }
    }
}

#[derive(Serialize, serde::Deserialize)]
struct HoldFields {
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<MetaCode>,
    reason: String,
    since: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<UnixMs>,
}

#[derive(Serialize)]
struct LineFields<'a> {
    state: &'a str,
}

#[derive(Serialize)]
struct TemplateFields<'a> {
    waba: &'a WabaId,
    template: &'a str,
    language: &'a str,
    status: &'a str,
}

impl Observer {
    pub(super) fn new(lines: Live<Lines>) -> Self {
        Self { lines, compared_at: None, templates: HashMap::new() }
    }

    /// Publishes the states that have changed, if the last comparison was long enough ago.
    pub(super) async fn tell(&mut self, store: &Store, clock: &Clock) -> Result<()> {
        if self.compared_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        let now = clock.now();
        let told = store.told_states().await?;
        let told: States =
            told.into_iter().filter_map(|(field, text)| Some((Subject::of_field(&field)?, text))).collect();
        let current = self.states(store, now).await?;
        let mut events = Vec::new();
        let (mut changed, mut ended) = (Vec::new(), Vec::new());
        for (subject, text) in &current {
            let before = told.get(subject);
            if before == Some(text) {
                continue;
            }
            if !before.is_some_and(|before| is_same_hold(before, text)) {
                events.extend(self.event(subject, text, now));
            }
            changed.push((subject.field(), text.clone()));
        }
        for (subject, text) in told.iter().filter(|(subject, _)| !current.contains_key(*subject)) {
            if let Subject::Hold(_) = subject {
                events.extend(self.hold_event(EventType::HoldEnded, text, now));
            }
            ended.push(subject.field());
        }
        store.append_to(0, &events).await?;
        metrics::feed_events().increment(events.len() as u64);
        store.set_told_states(&changed, &ended).await?;
        self.compared_at = Some(Instant::now());
        Ok(())
    }

    async fn states(&mut self, store: &Store, now: UnixMs) -> Result<States> {
        let reader = StatisticsReader::new(store.clone(), self.lines.clone());
        let stops = reader.stops(now).await?;
        let mut states = States::new();
        for (scope, hold) in &stops.holds {
            let scope = scope.to_string();
            let Hold { code, reason, since, until } = hold.clone();
            let fields = HoldFields { scope: scope.clone(), code, reason, since, until };
            let text = serde_json::to_string(&fields).expect("only strings and numbers");
            states.insert(Subject::Hold(scope), text);
        }
        let ids = self.lines.get().ids();
        for (line, snapshot) in ids.iter().zip(reader.line_snapshots(&ids, &stops, now).await?) {
            states.insert(Subject::Line(line.clone()), line_state(&snapshot).to_owned());
        }
        self.read_templates(store).await?;
        for (waba, (_, templates)) in &self.templates {
            for Template { name, language, status, .. } in templates {
                let subject = Subject::Template(waba.clone(), name.clone(), language.to_string());
                states.insert(subject, status.to_string());
            }
        }
        Ok(states)
    }

    /// Reads the templates of WABAs that were synced since the last read.
    async fn read_templates(&mut self, store: &Store) -> Result<()> {
        let wabas: Vec<WabaId> = self.lines.get().wabas().into_keys().cloned().collect();
        self.templates.retain(|waba, _| wabas.contains(waba));
        for (waba, synced_at) in wabas.iter().zip(store.templates_synced_at(&wabas).await?) {
            let read_at = self.templates.get(waba).map(|(at, _)| *at);
            if synced_at.is_some()
                && synced_at != read_at
                && let Some((templates, at)) = store.templates(waba).await?
            {
                self.templates.insert(waba.clone(), (at, templates));
            }
        }
        Ok(())
    }

    /// The event with the new state of a subject.
    fn event(&self, subject: &Subject, text: &str, now: UnixMs) -> Option<String> {
        match subject {
            Subject::Hold(_) => self.hold_event(EventType::HoldBegan, text, now),
            Subject::Line(line) => {
                let lines = self.lines.get();
                let business = lines.business(line);
                let id = format!("line:{line}:{text}:{}", now.0);
                Some(json(id, EventType::LineState, now, business, Some(line), LineFields { state: text }))
            }
            Subject::Template(waba, template, language) => {
                let lines = self.lines.get();
                let business = lines.of_waba(waba).next().map(|line| &line.business);
                let id = format!("template:{waba}/{template}/{language}:{text}:{}", now.0);
                let fields = TemplateFields { waba, template, language, status: text };
                Some(json(id, EventType::TemplateState, now, business, None, fields))
            }
        }
    }

    /// The event that a hold began or ended; `None` if its text can't be read.
    fn hold_event(&self, event: EventType, text: &str, now: UnixMs) -> Option<String> {
        let fields: HoldFields = serde_json::from_str(text).ok()?;
        let scope: HoldScope = fields.scope.parse().ok()?;
        let held_line = match &scope {
            HoldScope::Line(line) => Some(line),
            _ => None,
        };
        let (word, at) = match event {
            EventType::HoldBegan => ("began", fields.since),
            _ => ("ended", fields.until.map_or(now, |until| until.min(now))),
        };
        let id = format!("hold:{scope}:{}:{word}", fields.since.0);
        Some(json(id, event, at, scope.business(&self.lines.get()), held_line, fields))
    }
}

fn json<D: Serialize>(
    id: String,
    r#type: EventType,
    at: UnixMs,
    business: Option<&BusinessId>,
    line: Option<&LineId>,
    details: D,
) -> String {
    Event { business, line, ..Event::new(id, r#type, at, details) }.to_json()
}

/// Whether both texts are of the same hold, of which only the reason or the end changed.
fn is_same_hold(before: &str, text: &str) -> bool {
    let since = |text| serde_json::from_str::<HoldFields>(text).ok().map(|hold| hold.since);
    since(text).is_some_and(|began| since(before) == Some(began))
}

/// The state of a line in one word, without its backlog.
fn line_state(now: &LineSnapshot) -> &'static str {
    match now.stop() {
        Some(Stop::Paused) => "paused",
        Some(Stop::Held(..)) => "held",
        Some(Stop::NoWorker | Stop::Unlisted) => "no_worker",
        Some(Stop::Unreachable(_)) => "unreachable",
        Some(Stop::PathBroken(_)) => "path_broken",
        Some(Stop::WarmUp(_)) => "warm_up",
        None if now.report.as_ref().is_some_and(|report| report.throttled) => "throttled",
        Some(Stop::LimitUnknown | Stop::Silent(_)) | None => "ready",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_found_by_its_field() {
        let subjects = [
            Subject::Hold("template:2001/spring/es_AR".into()),
            Subject::Line("3001".into()),
            Subject::Template("2001".into(), "spring".into(), "es_AR".into()),
        ];
        for subject in subjects {
            assert_eq!(Subject::of_field(&subject.field()), Some(subject));
        }
        assert_eq!(Subject::of_field("since"), None);
    }
}
