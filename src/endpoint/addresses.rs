//! Which addresses a request may go to: those of the public internet, so that nobody can make a worker send requests
//! into the network that it runs in.
//!
//! A name is checked each time that it is resolved, and connections go only to addresses that pass. So an attacker
//! gains nothing by changing the DNS record after a check. An address in the URL is not resolved, so the caller has to
//! check it.
//!
//! Source: the special-purpose registries of IANA, <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>, and RFC 6890.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The blocks of IPv4 that are not public: address and prefix length.
const PRIVATE_IPV4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// The block of IPv6 that is public: global unicast.
const PUBLIC_IPV6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The blocks within global unicast that are not public.
const PRIVATE_IPV6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which embeds an IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Addresses that stand for the IPv4 address in their last 32 bits (RFC 6052), in networks without IPv4.
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Whether `address` is on the public internet. An IPv4-mapped IPv6 address is not.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_ipv4(address),
        IpAddr::V6(address) if is_in_ipv6(address, NAT64) => {
            let [.., a, b, c, d] = address.octets();
            is_public_ipv4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(address) => {
            is_in_ipv6(address, PUBLIC_IPV6) && !PRIVATE_IPV6.iter().any(|block| is_in_ipv6(address, *block))
        }
    }
}

fn is_public_ipv4(address: Ipv4Addr) -> bool {
    !PRIVATE_IPV4.iter().any(|(block, length)| (address.to_bits() ^ block.to_bits()) >> (32 - length) == 0)
}

fn is_in_ipv6(address: Ipv6Addr, (block, length): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ block.to_bits()) >> (128 - length) == 0
}

/// Every address of a name is private.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} has the address {address}, which is not public: set allow_private if you mean it")]
pub struct NotPublic {
    /// The name.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// Finds the addresses of a name.
type LookUp = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Resolves names to public addresses only.
pub(super) struct PublicResolver {
    look_up: LookUp,
}

impl PublicResolver {
    /// A resolver that asks the system.
    pub(super) fn of_system() -> Self {
        // reqwest replaces port 0 by the port of the URL.
        Self { look_up: |name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }) }
    }
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (name, found) = (name.as_str().to_owned(), (self.look_up)(name.as_str().to_owned()));
        Box::pin(async move {
            let (public, private): (Vec<_>, Vec<_>) = found.await?.into_iter().partition(|found| is_public(found.ip()));
            match private.first() {
                Some(private) if public.is_empty() => Err(NotPublic { name, address: private.ip() }.into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "64:ff9b::1.1.1.1",
        ];
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::ffff:a00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for (addresses, expected) in [(&public[..], true), (&private[..], false)] {
            for address in addresses {
                assert_eq!(is_public(address.parse().expect(address)), expected, "{address}");
            }
        }
    }

    fn resolver(look_up: LookUp) -> PublicResolver {
        PublicResolver { look_up }
    }

    async fn resolve(resolver: &PublicResolver) -> Result<Vec<String>, NotPublic> {
        match resolver.resolve("backend.example".parse().expect("a name")).await {
            Ok(addresses) => Ok(addresses.map(|address| address.ip().to_string()).collect()),
            Err(error) => Err(*error.downcast().expect("the error of a private address")),
        }
    }

    fn found(addresses: &[&str]) -> io::Result<Vec<SocketAddr>> {
        Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().expect("an address"), 0)).collect())
    }

    #[tokio::test]
    async fn only_the_public_addresses_of_a_name_are_used() {
        let mixed = resolver(|_| Box::pin(async { found(&["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111"]) }));
        assert_eq!(resolve(&mixed).await, Ok(vec!["1.1.1.1".into(), "2606:4700::1111".into()]));
        let private = resolver(|_| Box::pin(async { found(&["::ffff:127.0.0.1", "10.0.0.1"]) }));
        let refused = NotPublic { name: "backend.example".into(), address: "::ffff:127.0.0.1".parse().expect("one") };
        assert_eq!(resolve(&private).await, Err(refused));
    }

    #[tokio::test]
    async fn a_name_that_changes_to_a_private_address_is_refused() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let changing = resolver(|_| {
            let address = if CALLS.fetch_add(1, Ordering::Relaxed) == 0 { "1.1.1.1" } else { "127.0.0.1" };
            Box::pin(async move { found(&[address]) })
        });
        assert_eq!(resolve(&changing).await, Ok(vec!["1.1.1.1".into()]));
        assert_eq!(resolve(&changing).await.expect_err("private").address, IpAddr::from([127, 0, 0, 1]));
    }
}
