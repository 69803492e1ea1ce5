//! Pauses of the whole installation or of one business, set by an operator. Lines and campaigns have pauses of their
//! own.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::{BusinessId, UnixMs};

/// The scope of such a pause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PauseScope {
    /// Every line.
    Installation,
    /// Every line of a business.
    Business(BusinessId),
}

impl From<Option<BusinessId>> for PauseScope {
    fn from(business: Option<BusinessId>) -> Self {
        business.map_or(PauseScope::Installation, PauseScope::Business)
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PauseScope::Installation => f.write_str("all"),
            PauseScope::Business(business) => write!(f, "business:{business}"),
        }
    }
}

impl FromStr for PauseScope {
    type Err = BadPauseScope;

    fn from_str(text: &str) -> Result<Self, BadPauseScope> {
        match text.split_once(':') {
            None if text == "all" => Ok(PauseScope::Installation),
            Some(("business", id)) => Ok(PauseScope::Business(id.into())),
            _ => Err(BadPauseScope),
        }
    }
}

/// The text is not the name of a pause scope.
#[derive(Debug, thiserror::Error)]
#[error("not the scope of a pause")]
pub struct BadPauseScope;

/// A pause of the installation or of a business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// What it stops.
    pub scope: PauseScope,
    /// When the operator set it.
    pub since: UnixMs,
}

/// The pauses of the installation and of businesses that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<PauseScope, UnixMs>);

impl Pauses {
    /// Whether `scope` itself is paused.
    pub fn contains(&self, scope: &PauseScope) -> bool {
        self.0.contains_key(scope)
    }

    /// Whether a pause stops the lines of `business`.
    pub fn stop(&self, business: &BusinessId) -> bool {
        !self.0.is_empty() && !self.on(Some(business)).is_empty()
    }

    /// The pauses that stop the lines of `business`, the widest first. `None`: only the pause of the installation.
    pub fn on(&self, business: Option<&BusinessId>) -> Vec<Pause> {
        let scopes = [Some(PauseScope::Installation), business.cloned().map(PauseScope::Business)];
        let pause = |scope: PauseScope| self.0.get(&scope).map(|&since| Pause { scope, since });
        scopes.into_iter().flatten().filter_map(pause).collect()
    }

    /// Every pause, the widest first.
    pub fn iter(&self) -> impl Iterator<Item = Pause> {
        self.0.iter().map(|(scope, &since)| Pause { scope: scope.clone(), since })
    }
}

impl FromIterator<Pause> for Pauses {
    fn from_iter<T: IntoIterator<Item = Pause>>(pauses: T) -> Self {
        Self(pauses.into_iter().map(|pause| (pause.scope, pause.since)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn business(id: &str) -> PauseScope {
        PauseScope::Business(id.into())
    }

    #[test]
    fn a_pause_scope_round_trips_through_its_name() {
        for (scope, name) in [(PauseScope::Installation, "all"), (business("1001"), "business:1001")] {
            assert_eq!(scope.to_string(), name);
            assert_eq!(name.parse::<PauseScope>().expect("a scope"), scope);
        }
        for bad in ["", "everything", "all:1001", "line:3001"] {
            assert!(bad.parse::<PauseScope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_business_is_stopped_by_its_own_pause_and_that_of_all() {
        let pauses = |scopes: &[PauseScope]| -> Pauses {
            scopes.iter().map(|scope| Pause { scope: scope.clone(), since: UnixMs(7) }).collect()
        };
        let stopped = |pauses: Pauses| ["1001", "1002"].map(|id| pauses.stop(&id.into()));
        assert_eq!(stopped(Pauses::default()), [false, false]);
        assert_eq!(stopped(pauses(&[business("1001")])), [true, false]);
        assert_eq!(stopped(pauses(&[PauseScope::Installation])), [true, true]);

        let both = pauses(&[business("1001"), PauseScope::Installation]);
        let on = |business: Option<&str>| {
            let business = business.map(BusinessId::from);
            both.on(business.as_ref()).into_iter().map(|pause| pause.scope.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(on(Some("1001")), ["all", "business:1001"]);
        assert_eq!(on(Some("1002")), ["all"]);
        assert_eq!(on(None), ["all"]);
    }
}
