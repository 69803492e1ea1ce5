//! The token that Meta echoes with every status (`biz_opaque_callback_data`).
//!
//! The token names the lane of its message. For a campaign it identifies the recipient and the send, so that a status
//! finds its state byte without a look-up table.
//! Every app on the WABA can read the token, so it contains no personal data, and a keyed checksum makes a forged
//! token ineffective.

use std::fmt::Write as _;

use siphasher::sip::SipHasher24;

use super::{CampaignId, ChatMessageId, ClaimedRow, Live, PartId};

/// The key of the checksum, shared by all workers of an installation.
#[derive(Clone, Copy)]
pub struct TokenKey([u8; 16]);

impl TokenKey {
    /// A key from 16 random bytes.
    pub fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// The 16 bytes of the key.
    pub fn secret(&self) -> &[u8; 16] {
        &self.0
    }

    fn check(&self, body: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.0).hash(body)
    }
}

/// The current key of the installation. It changes when Redis lost the key and another process wrote a new one first.
pub type SharedTokenKey = Live<TokenKey>;

/// The prefix of the tokens of campaigns.
const CAMPAIGN: &str = "p1";

/// The prefix of the tokens of chats.
const CHAT: &str = "c1";

/// What a message carries through Meta: its lane, and its place in it. The first field of the text names the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Token {
    /// One send of a recipient of a campaign.
    Campaign {
        /// The recipient's part.
        part: PartId,
        /// The recipient's row in the part, and the number of the send: at least 1.
        claimed: ClaimedRow,
    },
    /// One send of a message of a chat.
    Chat {
        /// The message.
        id: ChatMessageId,
        /// The number of the send: at least 1.
        send: u32,
    },
}

impl Token {
    /// Appends the token as text, at most 96 characters. For campaigns: `p1.<campaign>.<part>.<row>.<send>.<check>`; for
    /// chats: `c1.<chat>.<message>.<send>.<check>`.
    pub fn write(&self, key: &TokenKey, out: &mut String) {
        let start = out.len();
        let _ = match self {
            Token::Campaign { part, claimed: ClaimedRow { row, send } } => {
                write!(out, "{CAMPAIGN}.{part}.{row}.{send}")
            }
            Token::Chat { id, send } => write!(out, "{CHAT}.{id}.{send}"),
        };
        let check = key.check(&out.as_bytes()[start..]);
        let _ = write!(out, ".{check:016x}");
    }

    /// Whether `text` has the prefix of a token. The checksum is not checked.
    pub fn has_prefix(text: &str) -> bool {
        text.split_once('.').is_some_and(|(prefix, _)| prefix == CAMPAIGN || prefix == CHAT)
    }

    /// Parses a token; `None` if `text` is not a token or its checksum is wrong.
    pub fn read(key: &TokenKey, text: &str) -> Option<Token> {
        let (body, check) = text.rsplit_once('.')?;
        // Only one spelling is valid: `from_str_radix` by itself would also accept a sign and upper case.
        let is_hex = check.len() == 16 && check.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || u64::from_str_radix(check, 16).ok()? != key.check(body.as_bytes()) {
            return None;
        }
        let mut fields = body.split('.');
        let token = match fields.next()? {
            CAMPAIGN => {
                let campaign: CampaignId = fields.next()?.parse().ok()?;
                let part = PartId { campaign, number: fields.next()?.parse().ok()? };
                let claimed = ClaimedRow { row: fields.next()?.parse().ok()?, send: fields.next()?.parse().ok()? };
                (claimed.send > 0).then_some(Token::Campaign { part, claimed })?
            }
            CHAT => {
                let id = ChatMessageId { chat: fields.next()?.parse().ok()?, message: fields.next()?.parse().ok()? };
                let send = fields.next()?.parse().ok()?;
                (send > 0).then_some(Token::Chat { id, send })?
            }
            _ => return None,
        };
        fields.next().is_none().then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let campaign = "01J9ZK3V5T8R7Q6P5N4M3K2J1H".parse().expect("an id");
        Token::Campaign { part: PartId { campaign, number: 12 }, claimed: ClaimedRow { row: 65_535, send: 255 } }
    }

    #[test]
    fn a_token_round_trips() {
        let key = TokenKey::new([7; 16]);
        let mut text = String::new();
        token().write(&key, &mut text);
        assert!(text.len() <= 64, "{text}");
        assert_eq!(Token::read(&key, &text), Some(token()));
        let id = ChatMessageId { chat: i64::MAX, message: 1_796_000_000_000_000 };
        let chat = Token::Chat { id, send: 3 };
        text.clear();
        chat.write(&key, &mut text);
        assert!(text.starts_with("c1.") && text.len() <= 96, "{text}");
        assert_eq!(Token::read(&key, &text), Some(chat));
    }

    #[test]
    fn a_token_of_release_0_1_0_is_valid() {
        let text = "p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.12.65535.255.daa3c1876a8c3fa4";
        assert_eq!(Token::read(&TokenKey::new([7; 16]), text), Some(token()));
    }

    #[test]
    fn a_forged_or_altered_token_is_rejected() {
        let key = TokenKey::new([7; 16]);
        let mut text = String::new();
        token().write(&TokenKey::new([8; 16]), &mut text);
        assert_eq!(Token::read(&key, &text), None, "another key");
        text.clear();
        token().write(&key, &mut text);
        assert_eq!(Token::read(&key, &text.replace(".12.", ".13.")), None, "another part");
        let (body, check) = text.rsplit_once('.').expect("a check");
        let capitals = format!("{body}.{}", check.to_uppercase());
        assert_ne!(capitals, text);
        assert_eq!(Token::read(&key, &capitals), None, "another spelling");
        for bad in ["", ".", "p1", "c42:r981", "p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.1.1.1.0000000000000000", "ñ.ñ"] {
            assert_eq!(Token::read(&key, bad), None, "{bad}");
        }
    }
}
