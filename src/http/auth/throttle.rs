//! Rate limit for requests with unknown keys, per network, against guessing of keys.
//!
//! A network over its limit is rejected regardless of the key that it sends: if a valid key still passed, the response
//! would reveal which guess was right. A key that was used from the network before is exempt, so that guesses do not
//! lock out a caller in the same network. The first request with a valid key uses up quota like a guess.
//!
//! If the process dies: the counts are lost, and every network has its full quota again.
//! Never: grows without bound. While [`NETWORKS_MAX`] networks are tracked, every network uses one shared quota.

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

/// Maximum number of networks with a quota of their own. Each takes about 50 bytes.
const NETWORKS_MAX: usize = 10_000;
/// Maximum number of pairs in the trusted set, which is cleared when it is full.
const TRUSTED_MAX: usize = 10_000;
/// The limiter's key for the quota that every network uses while [`NETWORKS_MAX`] are tracked.
const SHARED_QUOTA: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The rate limiter and the set of exempt keys.
pub(super) struct Throttle<C: Clock = DefaultClock> {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    /// Pairs of a network and the index of a valid key that was used from it.
    trusted: RwLock<HashSet<(IpAddr, usize)>>,
}

impl<C: Clock + Clone> Throttle<C> {
    /// `per_minute`: the quota of each network. All of it may be used in one burst.
    pub(super) fn new(per_minute: NonZeroU32, clock: C) -> Self {
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_minute(per_minute), clock.clone());
        Self { limiter, clock, trusted: RwLock::default() }
    }

    /// Checks a request against the quota of `client`'s network, and uses up one request of it. A valid key that was
    /// used from the same network before is exempt. `key` is the index of the request's key; `None` if it is unknown.
    ///
    /// Errors: how long to wait until the next request is allowed, if the quota is used up.
    pub(super) fn check(&self, client: IpAddr, key: Option<usize>) -> Result<(), Duration> {
        let network = network(client);
        let pair = key.map(|key| (network, key));
        if pair.is_some_and(|pair| self.trusted.read().unwrap_or_else(PoisonError::into_inner).contains(&pair)) {
            return Ok(());
        }
        let quota = if self.limiter.len() < NETWORKS_MAX { network } else { SHARED_QUOTA };
        self.limiter.check_key(&quota).map_err(|until| until.wait_time_from(self.clock.now()))?;
        if quota == SHARED_QUOTA {
            // Drop networks whose quota is full again. This scans the whole map, so it runs only here, where the shared
            // quota limits how often.
            self.limiter.retain_recent();
        }
        if let Some(pair) = pair {
            let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
            if trusted.len() >= TRUSTED_MAX {
                trusted.clear();
            }
            trusted.insert(pair);
        }
        Ok(())
    }
}

/// The network of an address: the address itself for IPv4, its /64 for IPv6, because a client controls a whole /64.
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

    const QUOTA: u32 = 5;

    fn throttle() -> (Throttle<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Throttle::new(NonZeroU32::new(QUOTA).expect("not 0"), clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_over_its_quota_waits_and_others_do_not() {
        let (throttle, clock) = throttle();
        let (guesser, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..QUOTA {
            assert_eq!(throttle.check(guesser, None), Ok(()));
        }
        let wait = throttle.check(guesser, None).expect_err("too often");
        assert_eq!(wait, Duration::from_secs(12), "a fifth of a minute for one of five requests");
        assert_eq!(throttle.check(guesser, Some(0)), Err(wait), "or the response would reveal that the key is valid");
        assert_eq!(throttle.check(other, None), Ok(()));
        clock.advance(wait);
        assert_eq!(throttle.check(guesser, Some(0)), Ok(()));
        assert_eq!(throttle.check(guesser, None), Err(wait));
    }

    #[test]
    fn guesses_do_not_lock_out_a_key_used_before() {
        let (throttle, _) = throttle();
        let client = address("192.0.2.1");
        assert_eq!(throttle.check(client, Some(3)), Ok(()));
        while throttle.check(client, None).is_ok() {}
        for _ in 0..1_000 {
            assert_eq!(throttle.check(client, Some(3)), Ok(()));
        }
        assert!(throttle.check(client, Some(4)).is_err(), "trust does not extend to another key");
        assert!(throttle.check(client, None).is_err());
    }

    #[test]
    fn an_ipv6_prefix_of_64_bits_is_one_network() {
        assert_eq!(network(address("2001:db8:1:2:aaaa::1")), network(address("2001:db8:1:2:bbbb::2")));
        assert_ne!(network(address("2001:db8:1:2::1")), network(address("2001:db8:1:3::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_networks() {
        let (throttle, clock) = throttle();
        for number in 0..30_000 {
            let guesser = IpAddr::from(Ipv4Addr::from_bits(number));
            let _ = throttle.check(guesser, None);
            let _ = throttle.check(guesser, Some(0));
        }
        assert!(throttle.limiter.len() <= NETWORKS_MAX + 1, "{}", throttle.limiter.len());
        assert!(throttle.trusted.read().expect("no panic").len() <= TRUSTED_MAX);
        assert!(throttle.check(address("192.0.2.1"), None).is_err(), "the shared quota is used up");
        clock.advance(Duration::from_secs(120));
        assert_eq!(throttle.check(address("192.0.2.1"), None), Ok(()));
        assert!(throttle.limiter.len() <= 2, "networks with a full quota are dropped: {}", throttle.limiter.len());
    }
}
