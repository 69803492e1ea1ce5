//! Restrictions and bans of a WABA, and the sends that they refuse. Callers pass the time.
//! Source: developers.facebook.com/docs/whatsapp, account_update and policy enforcement, read in copies of 11 Sep 2026
//! and 4 Nov 2025.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{lock, notice::NoticeId};

/// A restriction, in Meta's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Restriction {
    /// No messages outside service windows.
    RestrictedBizInitiatedMessaging,
    /// No messages within service windows.
    RestrictedCustomerInitiatedMessaging,
    /// No utility templates beyond a number that Meta does not publish: here, none at all.
    RateLimitedUtilityTemplateMessaging,
    /// No new utility templates. The existing ones become marketing.
    RestrictedUtilityTemplates,
    /// No utility messages without a template. The simulator accepts none anyway.
    RestrictedDirectSendUtilityTemplates,
    /// No more lines.
    RestrictedAddPhoneNumberAction,
}

/// What was imposed on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sanction {
    Ban,
    Restriction(Restriction),
}

/// Whether a sanction is on the WABA or on its business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Waba,
    Business,
}

/// A sanction on a WABA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) level: Level,
    pub(super) sanction: Sanction,
    /// When it ends by itself, since the start of the simulator; `None` if it does not.
    pub(super) until: Option<Duration>,
    /// The notice about it; `None` if the WABA has no webhook.
    pub(super) notice: Option<NoticeId>,
}

/// What decides whether a sanction refuses a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) is_utility: bool,
    pub(super) in_service_window: bool,
}

/// The sanctions on one WABA.
#[derive(Default)]
pub(super) struct Blocks {
    /// Whether there are any, so that most sends need no lock.
    any: AtomicBool,
    blocks: Mutex<Vec<Block>>,
}

impl Sanction {
    /// The code with which the sanction refuses a message of this kind; `None` if it admits the message.
    pub(super) fn refuses(self, kind: Kind) -> Option<u32> {
        match self {
            Sanction::Ban => Some(131_031),
            Sanction::Restriction(Restriction::RestrictedBizInitiatedMessaging) => {
                (!kind.in_service_window).then_some(368)
            }
            Sanction::Restriction(Restriction::RestrictedCustomerInitiatedMessaging) => {
                kind.in_service_window.then_some(368)
            }
            Sanction::Restriction(Restriction::RateLimitedUtilityTemplateMessaging) => {
                kind.is_utility.then_some(131_064)
            }
            Sanction::Restriction(
                Restriction::RestrictedUtilityTemplates
                | Restriction::RestrictedDirectSendUtilityTemplates
                | Restriction::RestrictedAddPhoneNumberAction,
            ) => None,
        }
    }
}

impl Blocks {
    pub(super) fn add(&self, block: Block) {
        lock(&self.blocks).push(block);
        self.any.store(true, Ordering::Release);
    }

    /// Ends the sanctions of a level that `ends` selects.
    pub(super) fn lift(&self, level: Level, ends: impl Fn(Sanction) -> bool) {
        lock(&self.blocks).retain(|block| block.level != level || !ends(block.sanction));
    }

    /// The sanctions that have not ended.
    pub(super) fn at(&self, now: Duration) -> Vec<Block> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut blocks = lock(&self.blocks);
        blocks.retain(|block| block.until.is_none_or(|until| now < until));
        blocks.clone()
    }

    pub(super) fn reset(&self) {
        lock(&self.blocks).clear();
        self.any.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sanction_refuses_only_what_it_is_about() {
        use Restriction as R;
        let kinds = [(false, false), (false, true), (true, false), (true, true)]
            .map(|(is_utility, in_service_window)| Kind { is_utility, in_service_window });
        for (sanction, codes) in [
            (Sanction::Ban, [Some(131_031); 4]),
            (Sanction::Restriction(R::RestrictedBizInitiatedMessaging), [Some(368), None, Some(368), None]),
            (Sanction::Restriction(R::RestrictedCustomerInitiatedMessaging), [None, Some(368), None, Some(368)]),
            (Sanction::Restriction(R::RateLimitedUtilityTemplateMessaging), [None, None, Some(131_064), Some(131_064)]),
            (Sanction::Restriction(R::RestrictedUtilityTemplates), [None; 4]),
        ] {
            assert_eq!(kinds.map(|kind| sanction.refuses(kind)), codes, "{sanction:?}");
        }
    }

    #[test]
    fn a_sanction_ends_by_itself_or_is_lifted_at_its_level() {
        let second = Duration::from_secs(1);
        let blocks = Blocks::default();
        let block = |level, until| Block { level, sanction: Sanction::Ban, until, notice: None };
        let (timed, business) = (block(Level::Waba, Some(5 * second)), block(Level::Business, None));
        blocks.add(timed);
        blocks.add(business);
        assert_eq!(blocks.at(4 * second), [timed, business]);
        assert_eq!(blocks.at(5 * second), [business]);
        blocks.lift(Level::Waba, |_| true);
        assert_eq!(blocks.at(6 * second), [business]);
        blocks.lift(Level::Business, |sanction| sanction == Sanction::Ban);
        assert_eq!(blocks.at(6 * second), []);
    }
}
