//! Unknown keys, counted by the network that they come from: who tries too often is not listened to for a while.
//!
//! Else a key could be guessed as fast as this server answers. So what is refused then is more than unknown keys: a good
//! one too, for otherwise the answer would still tell which one is good. Spared are keys that were used from there before:
//! a caller is not locked out because somebody beside it guesses.
//!
//! If the process dies: it forgets, and everybody has their tries again.
//! Never: grows. What is counted and what is remembered are bounded; beyond that, all new networks share one count.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

/// Networks that are counted one by one. Each takes some 50 bytes.
const NETWORKS_MAX: usize = 10_000;
/// Pairs of a network and a key that was good there.
const PROVEN_MAX: usize = 10_000;
/// Whom all networks beyond [`NETWORKS_MAX`] are counted as.
const ALL_OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The counts.
pub(super) struct Throttle<C: Clock = DefaultClock> {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    proven: RwLock<HashSet<(IpAddr, usize)>>,
}

impl<C: Clock + Clone> Throttle<C> {
    /// With so many tries a minute for each network; all of them may come at once.
    pub(super) fn new(per_minute: NonZeroU32, clock: C) -> Self {
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_minute(per_minute), clock.clone());
        Self { limiter, clock, proven: RwLock::default() }
    }

    /// Counts a call from `client` with the known key of this number, or with an unknown one.
    ///
    /// Errors: it is not listened to; how long until it will be.
    pub(super) fn count(&self, client: IpAddr, known: Option<usize>) -> Result<(), Duration> {
        let network = network(client);
        let proof = known.map(|key| (network, key));
        if proof.is_some_and(|proof| self.proven.read().unwrap_or_else(PoisonError::into_inner).contains(&proof)) {
            return Ok(());
        }
        let counted_as = if self.limiter.len() < NETWORKS_MAX { network } else { ALL_OTHERS };
        self.limiter.check_key(&counted_as).map_err(|until| until.wait_time_from(self.clock.now()))?;
        if counted_as == ALL_OTHERS {
            // Those that have all their tries again are as good as never seen. To look for them takes a while: here it is
            // done as often as this count allows.
            self.limiter.retain_recent();
        }
        if let Some(proof) = proof {
            let mut proven = self.proven.write().unwrap_or_else(PoisonError::into_inner);
            if proven.len() >= PROVEN_MAX {
                proven.clear();
            }
            proven.insert(proof);
        }
        Ok(())
    }
}

/// Whoever has one address of IPv6 has all of its /64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const TRIES: u32 = 5;

    fn throttle() -> (Throttle<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Throttle::new(NonZeroU32::new(TRIES).expect("not 0"), clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_tries_too_often_waits_and_nobody_else_does() {
        let (throttle, clock) = throttle();
        let (guesser, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..TRIES {
            assert_eq!(throttle.count(guesser, None), Ok(()));
        }
        let wait = throttle.count(guesser, None).expect_err("too often");
        assert_eq!(wait, Duration::from_secs(12), "a fifth of a minute for one of five tries");
        assert_eq!(throttle.count(guesser, Some(0)), Err(wait), "or the answer would tell which key is good");
        assert_eq!(throttle.count(other, None), Ok(()));
        clock.advance(wait);
        assert_eq!(throttle.count(guesser, Some(0)), Ok(()));
        assert_eq!(throttle.count(guesser, None), Err(wait));
    }

    #[test]
    fn a_key_that_was_good_before_is_not_kept_out_by_guesses_beside_it() {
        let (throttle, _) = throttle();
        let client = address("192.0.2.1");
        assert_eq!(throttle.count(client, Some(3)), Ok(()));
        while throttle.count(client, None).is_ok() {}
        for _ in 0..1_000 {
            assert_eq!(throttle.count(client, Some(3)), Ok(()));
        }
        assert!(throttle.count(client, Some(4)).is_err(), "another key is not proven by it");
        assert!(throttle.count(client, None).is_err());
    }

    #[test]
    fn a_network_of_ipv6_is_one_guesser() {
        assert_eq!(network(address("2001:db8:1:2:aaaa::1")), network(address("2001:db8:1:2:bbbb::2")));
        assert_ne!(network(address("2001:db8:1:2::1")), network(address("2001:db8:1:3::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn however_many_guess_what_is_remembered_of_them_is_bounded() {
        let (throttle, clock) = throttle();
        for number in 0..30_000 {
            let guesser = IpAddr::from(Ipv4Addr::from_bits(number));
            let _ = throttle.count(guesser, None);
            let _ = throttle.count(guesser, Some(0));
        }
        assert!(throttle.limiter.len() <= NETWORKS_MAX + 1, "{}", throttle.limiter.len());
        assert!(throttle.proven.read().expect("no panic").len() <= PROVEN_MAX);
        assert!(throttle.count(address("192.0.2.1"), None).is_err(), "all others together have had their tries");
        clock.advance(Duration::from_secs(120));
        assert_eq!(throttle.count(address("192.0.2.1"), None), Ok(()));
        assert!(throttle.limiter.len() <= 2, "after a while they are forgotten: {}", throttle.limiter.len());
    }
}
