//! Stop words: a message that consists of a stop word opts its sender out.

use std::{collections::HashMap, sync::Arc};

use crate::domain::SuppressionScope;

/// Maximum length in bytes of a message that is compared with the stop words.
const LENGTH_MAX: usize = 100;

/// The stop words of an installation, of all its languages: nobody knows in which one a person writes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StopWords(Arc<HashMap<String, SuppressionScope>>);

impl StopWords {
    /// The stop words `words`, each with the scope that it stops. If a word is given twice, the wider scope counts.
    pub fn new<'w>(words: impl IntoIterator<Item = (&'w str, SuppressionScope)>) -> Self {
        let mut all = HashMap::new();
        for (word, scope) in words {
            let known = all.entry(normal(word)).or_insert(scope);
            if scope == SuppressionScope::All {
                *known = scope;
            }
        }
        Self(Arc::new(all))
    }

    /// The scope that a message with this `text` stops; `None` if the text is not a stop word.
    pub fn stopped_by(&self, text: &str) -> Option<SuppressionScope> {
        if text.len() > LENGTH_MAX {
            return None;
        }
        self.0.get(&normal(text)).copied()
    }
}

/// The text in lower case, with single spaces, and without punctuation around it.
fn normal(text: &str) -> String {
    let text = text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_word_is_the_whole_message_whatever_its_case_and_punctuation() {
        let words = StopWords::new([
            ("STOP", SuppressionScope::Marketing),
            ("no más", SuppressionScope::All),
            ("stop", SuppressionScope::All),
        ]);
        for text in ["stop", "STOP", " Stop! ", "«Stop»", "¡STOP!"] {
            assert_eq!(words.stopped_by(text), Some(SuppressionScope::All), "{text}");
        }
        assert_eq!(words.stopped_by("No  MÁS."), Some(SuppressionScope::All));
        let long = format!("stop{}", " ".repeat(200));
        for text in ["", "!", "stop it", "don't stop", "stops", long.as_str()] {
            assert_eq!(words.stopped_by(text), None, "{text}");
        }
        assert_eq!(StopWords::default().stopped_by("stop"), None);
    }
}
