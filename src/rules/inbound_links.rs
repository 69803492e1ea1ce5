//! Which link a person has followed, by the text of the first message.

use super::words::folded;
use crate::domain::InboundLinkId;

/// The opening texts of the links of a line.
pub type Openings = Vec<(InboundLinkId, String)>;

/// The link whose opening text begins a message, whatever its accents, capitals and punctuation. Of several, the one with
/// the longest text.
pub fn followed(text: &str, openings: &Openings) -> Option<InboundLinkId> {
    let text = format!("{} ", folded(text));
    let begins = |opening: &str| {
        let opening = folded(opening);
        (!opening.is_empty() && text.starts_with(&format!("{opening} "))).then_some(opening.len())
    };
    let found = openings.iter().filter_map(|(id, opening)| Some((begins(opening)?, *id)));
    found.max().map(|(_, id)| id)
}

/// Whether a text can be recognised as the opening text of a link.
pub fn is_recognisable(opening: &str) -> bool {
    !folded(opening).is_empty()
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    #[test]
    fn a_message_that_begins_with_an_opening_text_followed_its_link() {
        let id = |number| InboundLinkId(Ulid(number));
        let openings = vec![
            (id(1), "Hola, quiero información".to_owned()),
            (id(2), "hola quiero informacion del plan".to_owned()),
            (id(3), "Precio".to_owned()),
            (id(4), "!".to_owned()),
        ];
        for (text, link) in [
            ("Hola, quiero información", Some(1)),
            ("¡HOLA! Quiero  informacion, por favor", Some(1)),
            ("Hola, quiero información del plan oro", Some(2)),
            ("precio?", Some(3)),
            ("precios", None),
            ("el precio", None),
            ("", None),
            ("!", None),
        ] {
            assert_eq!(followed(text, &openings), link.map(id), "{text}");
        }
        assert!(is_recognisable("¿Hola?") && !is_recognisable("!? 👋"));
    }
}
