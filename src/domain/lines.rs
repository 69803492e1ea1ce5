//! The lines that the configuration lists.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::Arc,
};

use super::{BusinessId, Line, LineId, Secret, WabaId};

/// The configured lines, in configuration order, with unique ids. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<List>);

#[derive(Debug, Default)]
struct List {
    lines: Vec<Line>,
    /// The position of each line in `lines`.
    positions: HashMap<LineId, usize>,
}

impl Lines {
    /// The ids, in configuration order.
    pub fn ids(&self) -> Vec<LineId> {
        self.iter().map(|line| line.id.clone()).collect()
    }

    /// The line `id`, if it is configured.
    pub fn by_id(&self, id: &LineId) -> Option<&Line> {
        self.0.positions.get(id).map(|&position| &self.0.lines[position])
    }

    /// The business of the line `id`, if the line is configured.
    pub fn business(&self, id: &LineId) -> Option<&BusinessId> {
        self.by_id(id).map(|line| &line.business)
    }

    /// Whether `other` is a clone of these lines.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The first of `ids` that is configured.
    pub fn first_of(&self, ids: &[LineId]) -> Option<&Line> {
        ids.iter().find_map(|id| self.by_id(id))
    }

    /// The lines of a WABA.
    pub fn of_waba(&self, waba: &WabaId) -> impl Iterator<Item = &Line> {
        self.iter().filter(move |line| line.waba == *waba)
    }

    /// The lines of a business.
    pub fn of_business(&self, business: &BusinessId) -> impl Iterator<Item = &Line> {
        self.iter().filter(move |line| line.business == *business)
    }

    /// The WABAs of the lines, with their access tokens.
    pub fn wabas(&self) -> BTreeMap<&WabaId, &Secret> {
        self.iter().map(|line| (&line.waba, &line.token)).collect()
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0.lines
    }
}

impl FromIterator<Line> for Lines {
    fn from_iter<T: IntoIterator<Item = Line>>(lines: T) -> Self {
        let lines: Vec<Line> = lines.into_iter().collect();
        let positions = lines.iter().enumerate().map(|(position, line)| (line.id.clone(), position)).collect();
        Self(Arc::new(List { lines, positions }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::tests::line;

    #[test]
    fn lines_are_found_by_id_waba_and_business_in_order() {
        let other = Line { business: "1002".into(), token: Secret::new("other"), ..line("3001", "2000") };
        let lines: Lines = [line("3003", "2001"), other, line("3002", "2001")].into_iter().collect();
        assert_eq!(lines.ids(), ["3003", "3001", "3002"].map(LineId::from));
        assert_eq!(lines.by_id(&"3001".into()).map(|line| line.waba.as_str()), Some("2000"));
        assert!(lines.by_id(&"3009".into()).is_none());
        let first = lines.first_of(&["3009", "3002", "3003"].map(LineId::from));
        assert_eq!(first.map(|line| line.id.as_str()), Some("3002"));

        let of_waba: Vec<&str> = lines.of_waba(&"2001".into()).map(|line| line.id.as_str()).collect();
        assert_eq!(of_waba, ["3003", "3002"]);
        let of_business: Vec<&str> = lines.of_business(&"1002".into()).map(|line| line.id.as_str()).collect();
        assert_eq!(of_business, ["3001"]);
        let wabas: Vec<(&str, &str)> =
            lines.wabas().into_iter().map(|(waba, token)| (waba.as_str(), token.expose())).collect();
        assert_eq!(wabas, [("2000", "other"), ("2001", "t")]);
    }
}
