//! Properties of the token that each status carries.

use pregon::domain::{CampaignId, ChatMessageId, ClaimedRow, PartId, Token, TokenKey};
use siphasher::sip::SipHasher24;

const SECRET: [u8; 16] = [7; 16];

/// A parsed token is written back as the same text, and a token with one changed bit is rejected.
pub fn token(input: &[u8]) {
    let key = TokenKey::new(SECRET);
    let text = String::from_utf8_lossy(input);
    if let Some(token) = Token::read(&key, &text) {
        assert_eq!(written(&token, &key), text, "a token has only one spelling");
    }
    // A valid check lets arbitrary fields reach their parser. An attacker cannot compute it.
    let check = SipHasher24::new_with_key(&SECRET).hash(text.as_bytes());
    if let Some(token) = Token::read(&key, &format!("{text}.{check:016x}")) {
        round_trip(&token, &key, input);
    }
    let mut bytes = [0; 24];
    let n = input.len().min(bytes.len());
    bytes[..n].copy_from_slice(&input[..n]);
    let [campaign @ .., p1, p0, r1, r0, send, _, _, _] = bytes;
    let number = u16::from_be_bytes([p1, p0]);
    let part = PartId { campaign: CampaignId(u128::from_be_bytes(campaign).into()), number };
    round_trip(
        &Token::Campaign { part, claimed: ClaimedRow { row: u16::from_be_bytes([r1, r0]), send: send.max(1) } },
        &key,
        input,
    );
    let [chat @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = bytes;
    let [.., m7, m6, m5, m4, m3, m2, m1, m0] = bytes;
    let message = i64::from_be_bytes([m7, m6, m5, m4, m3, m2, m1, m0]);
    let id = ChatMessageId { chat: i64::from_be_bytes(chat), message };
    round_trip(&Token::Chat { id, send: u32::from(send.max(1)) }, &key, input);
}

fn round_trip(token: &Token, key: &TokenKey, input: &[u8]) {
    let (send, length_max) = match token {
        Token::Campaign { claimed, .. } => (u32::from(claimed.send), 64),
        Token::Chat { send, .. } => (*send, 96),
    };
    assert!(send > 0, "{token:?}");
    let text = written(token, key);
    assert!(text.len() <= length_max, "{text}");
    assert_eq!(Token::read(key, &text), Some(*token));
    let drawn = SipHasher24::new().hash(input) as usize;
    let mut changed = text.into_bytes();
    let at = drawn / 7 % changed.len();
    changed[at] ^= 1 << (drawn % 7);
    let changed = String::from_utf8(changed).expect("ASCII stays ASCII");
    assert_eq!(Token::read(key, &changed), None, "{changed}");
}

fn written(token: &Token, key: &TokenKey) -> String {
    let mut text = String::new();
    token.write(key, &mut text);
    text
}
