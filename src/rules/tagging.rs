//! Tags that are set and removed when something happens in a chat.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::folded;
use crate::domain::{LineId, TagId};

/// Maximum number of rules of a tag, and of words of a rule.
pub const RULES_MAX: usize = 20;
/// Maximum number of words of a rule.
pub const WORDS_MAX: usize = 50;

/// When a tag is set or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagRule {
    /// What has to happen.
    pub when: TagCondition,
    /// What becomes of the tag.
    pub then: TagEffect,
}

/// What has to happen in a chat. Everything that is given has to be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagCondition {
    /// What happens.
    pub event: TagEvent,
    /// One of these words is in the message. Accents and capitals make no difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// The chat is on this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    pub line: Option<LineId>,
}

/// Something that happens in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TagEvent {
    /// The contact writes.
    Message,
    /// The contact writes for the first time, or to a closed chat.
    Opened,
    /// An agent closes the chat.
    Closed,
}

/// What becomes of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TagEffect {
    /// The chat has it from then on.
    Add,
    /// The chat does not have it any more.
    Remove,
}

/// What happened in a chat.
#[derive(Clone, Copy, Debug)]
pub struct Happened<'a> {
    /// What.
    pub event: TagEvent,
    /// The line of the chat.
    pub line: &'a LineId,
    /// The text of the message; empty if there is none.
    pub text: &'a str,
}

/// The rules of each tag of a business.
pub type TagRules = Vec<(TagId, Vec<TagRule>)>;

/// Changes the tags of a chat as the rules say. If a tag has several rules that fit, the last one counts.
pub fn retag(tags: &mut Vec<TagId>, rules: &TagRules, happened: Happened<'_>) {
    for (tag, rules) in rules {
        match rules.iter().rev().find(|rule| fits(&rule.when, happened)).map(|rule| rule.then) {
            Some(TagEffect::Add) if !tags.contains(tag) => tags.push(tag.clone()),
            Some(TagEffect::Remove) => tags.retain(|set| set != tag),
            _ => {}
        }
    }
}

fn fits(when: &TagCondition, happened: Happened<'_>) -> bool {
    when.event == happened.event
        && when.line.as_ref().is_none_or(|line| line == happened.line)
        && (when.words.is_empty() || when.words.iter().any(|word| has_words(happened.text, word)))
}

/// Whether a text has these words, next to each other.
fn has_words(text: &str, words: &str) -> bool {
    let (text, words) = (folded(text), folded(words));
    !words.is_empty() && format!(" {text} ").contains(&format!(" {words} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(event: TagEvent, words: &[&str], then: TagEffect) -> TagRule {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        TagRule { when: TagCondition { event, words, line: None }, then }
    }

    fn after(tags: &[&str], rules: &TagRules, event: TagEvent, text: &str) -> Vec<TagId> {
        let mut tags = tags.iter().map(|tag| TagId::from(*tag)).collect();
        retag(&mut tags, rules, Happened { event, line: &"3001".into(), text });
        tags
    }

    #[test]
    fn words_are_found_whatever_their_accents_and_capitals() {
        let rules = vec![("price".into(), vec![rule(TagEvent::Message, &["cuánto cuesta", "precio"], TagEffect::Add)])];
        for text in ["¿CUANTO   cuesta?", "el Precio, por favor", "precio"] {
            assert_eq!(after(&[], &rules, TagEvent::Message, text), ["price".into()], "{text}");
        }
        for text in ["", "precios", "cuanto", "¿cuánto me cuesta?"] {
            assert_eq!(after(&[], &rules, TagEvent::Message, text), [], "{text}");
        }
        assert_eq!(after(&[], &rules, TagEvent::Opened, "precio"), []);
    }

    #[test]
    fn a_tag_is_set_once_and_the_last_rule_that_fits_counts() {
        let rules = vec![
            (
                "new".into(),
                vec![rule(TagEvent::Opened, &[], TagEffect::Add), rule(TagEvent::Closed, &[], TagEffect::Remove)],
            ),
            (
                "vip".into(),
                vec![rule(TagEvent::Opened, &[], TagEffect::Add), rule(TagEvent::Opened, &[], TagEffect::Remove)],
            ),
        ];
        assert_eq!(after(&["new", "own"], &rules, TagEvent::Opened, ""), ["new".into(), "own".into()]);
        assert_eq!(after(&["vip", "own"], &rules, TagEvent::Opened, ""), ["own".into(), "new".into()]);
        assert_eq!(after(&["own", "new"], &rules, TagEvent::Closed, ""), ["own".into()]);
        assert_eq!(after(&["own"], &rules, TagEvent::Message, ""), ["own".into()]);
    }

    #[test]
    fn a_rule_of_a_line_is_only_for_its_chats() {
        let mut of_line = rule(TagEvent::Message, &[], TagEffect::Add);
        of_line.when.line = Some("3002".into());
        assert_eq!(after(&[], &vec![("x".into(), vec![of_line.clone()])], TagEvent::Message, ""), []);
        of_line.when.line = Some("3001".into());
        assert_eq!(after(&[], &vec![("x".into(), vec![of_line])], TagEvent::Message, ""), ["x".into()]);
    }
}
