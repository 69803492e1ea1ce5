//! What people do with a message that was delivered to them, and their user ids. Pure: callers pass the draws.

use std::time::Duration;

use serde::Deserialize;

use super::{
    delay::{Delay, Draws},
    inbound::Content,
    media::Medium,
};
use crate::domain::Phone;

/// What people answer. Nobody answers by default.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replies {
    /// The share of delivered messages with buttons or a list of which the person taps one: quick-reply buttons of
    /// templates, reply buttons and rows of interactive messages.
    pub tap: f64,
    /// The share of delivered messages without a tap that the person answers with words.
    pub text: f64,
    /// The share that the person answers with an image, a voice note or a document.
    pub media: f64,
    /// The share that the person reacts to with an emoji.
    pub reaction: f64,
    /// The share of answers in words or media after which the person writes once more.
    pub twice: f64,
    /// Delay from the last status to a tap, a reaction or the beginning of an answer.
    pub after: Delay,
    /// How long the person takes to write an answer in words or media.
    pub typing: Delay,
    /// The most messages without a template that a person answers to a line. It starts anew with each template and with
    /// each message from `/sim/inbound`.
    pub conversation: u32,
    /// What people write, one of them at a time.
    pub words: Vec<String>,
}

impl Default for Replies {
    fn default() -> Self {
        let words = ["Hola", "Sí, gracias", "¿Cuánto cuesta?", "No, todavía no", "¿A qué hora abren?", "Dale 👍"];
        Self {
            tap: 0.0,
            text: 0.0,
            media: 0.0,
            reaction: 0.0,
            twice: 0.0,
            after: Delay::NONE,
            typing: Delay::NONE,
            conversation: 0,
            words: words.map(str::to_owned).into(),
        }
    }
}

const EMOJI: [&str; 4] = ["👍", "❤️", "🙏", "😂"];

enum Way {
    Text,
    Media,
    Reaction,
}

impl Replies {
    /// What the person answers, each with its delay after the last status, in order: nothing, one message or two.
    ///
    /// `offered`: what a tap on each button or row returns. `add`: adds a file and returns its id.
    pub(super) fn answers(
        &self,
        offered: impl FnOnce() -> Vec<Content>,
        add: impl Fn(Medium) -> u64,
        draws: &mut Draws,
    ) -> Vec<(Duration, Content)> {
        let mut offered = if draws.chance(self.tap) { offered() } else { Vec::new() };
        if !offered.is_empty() {
            let after = self.after.draw(draws);
            return vec![(after, offered.swap_remove(draws.below(offered.len())))];
        }
        let ways = [(Way::Text, self.text), (Way::Media, self.media), (Way::Reaction, self.reaction)];
        if ways.iter().all(|(_, share)| *share == 0.0) {
            return Vec::new();
        }
        let Some(way) = draws.pick(ways) else { return Vec::new() };
        let mut at = self.after.draw(draws);
        let content = match way {
            Way::Reaction => return vec![(at, Content::Reaction(EMOJI[draws.below(EMOJI.len())]))],
            Way::Text => self.say(draws),
            Way::Media => {
                let medium = Medium::ALL[draws.below(Medium::ALL.len())];
                Content::File(medium, add(medium))
            }
        };
        at += self.typing.draw(draws);
        let mut answers = vec![(at, content)];
        if draws.chance(self.twice) {
            at += self.typing.draw(draws);
            answers.push((at, self.say(draws)));
        }
        answers
    }

    fn say(&self, draws: &mut Draws) -> Content {
        // The validation of scenarios excludes an empty list.
        Content::Text(self.words[draws.below(self.words.len())].as_str().into())
    }
}

/// Meta's id of the person for the business. Meta's ids do not tell the number; these do, so that they need no table.
pub(super) fn user_id(person: Phone) -> String {
    format!("AR.{:X}", person.digits())
}

/// The person with this user id.
pub(super) fn person_of(user_id: &str) -> Option<Phone> {
    Phone::from_digits(u64::from_str_radix(user_id.strip_prefix("AR.")?, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_their_shares_and_repeat_with_their_seed() {
        let replies = Replies { text: 0.5, media: 0.2, reaction: 0.1, twice: 0.5, ..Replies::default() };
        let answers = |seed| {
            let all = (0..1_000).map(|request| {
                let answers = replies.answers(Vec::new, |_| 7, &mut Draws::new(seed, 0, request));
                answers.into_iter().map(|(_, content)| described(&content)).collect::<Vec<_>>()
            });
            all.collect::<Vec<_>>()
        };
        let all = answers(1);
        assert_eq!(all, answers(1));
        assert_ne!(all, answers(2));
        let share = |of: &dyn Fn(&Vec<String>) -> bool| all.iter().filter(|answers| of(answers)).count();
        assert!((150..250).contains(&share(&|answers| answers.is_empty())));
        assert!((300..400).contains(&share(&|answers| answers.len() == 2)));
        assert!((150..250).contains(&share(&|answers| answers.iter().any(|answer| answer.starts_with("file")))));
        assert!((60..140).contains(&share(&|answers| answers.iter().any(|answer| EMOJI.contains(&answer.as_str())))));
    }

    fn described(content: &Content) -> String {
        match content {
            Content::Text(text) => text.to_string(),
            Content::File(medium, id) => format!("file {medium:?} {id}"),
            Content::Reaction(emoji) => (*emoji).to_owned(),
            Content::Tap(tap) => tap.label.to_string(),
            Content::Choice(choice) => choice.title.to_string(),
        }
    }

    #[test]
    fn a_user_id_names_its_person() {
        let ana: Phone = "+5491155550001".parse().expect("a number");
        assert_eq!(person_of(&user_id(ana)), Some(ana));
        for other in ["", "AR.", "AR.xyz", "5491155550001", "AR.FFFFFFFFFFFFFFFF"] {
            assert_eq!(person_of(other), None, "{other}");
        }
    }
}
