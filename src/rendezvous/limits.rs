//! What a server takes on: every table and every rate of it, in one place.

use std::time::Duration;

/// An association without a datagram for this long is over: three keep-alives and some jitter.
pub const ASSOCIATION_TIMEOUT: Duration = Duration::from_secs(75);

/// Interval of keep-alives: shorter than the 30 s after which common NATs forget a UDP mapping
/// (RFC 4787 asks for 2 minutes; what is sold does not always follow).
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Most messages that wait for a client's acknowledgements: every relation that a host may have, and some
/// more.
pub(super) const MAX_BACKLOG: usize = 1_024;

/// Most messages that wait for acknowledgements of all clients together, of at most 1.2 KB each. Above that,
/// whoever has not acknowledged one is not waited for.
pub(super) const MAX_QUEUED: usize = 65_536;

/// A handshake that comes to nothing counts as so many: an honest client's never does, and made-up ones cost their
/// senders nothing but the server a Diffie-Hellman each.
pub(super) const FAILED_HANDSHAKE: u32 = 8;

/// How often names that are held are noted as seen, and names that were not for too long are given up.
pub(super) const TEND_NAMES_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Bounds of a server. What is bounded for one source is bounded for its network (an IPv4 /24, an IPv6 /48) as
/// well, at four times as much. The defaults are meant for one small machine: full tables take some hundred
/// megabytes, full rates about half of one core.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Associations in all (a client has one for each address family; about 300 bytes each).
    pub associations: usize,
    /// Associations from one source (an IPv4 address or an IPv6 /64): leaves room for an office or a
    /// carrier NAT, and keeps one machine from filling the table.
    pub associations_per_source: usize,
    /// Names that are remembered, on disk as well.
    pub names: usize,
    /// Names that belong to one key.
    pub names_per_key: usize,
    /// A name that nobody has held for so long belongs to nobody any more. Far above the day in which
    /// names that are held are noted.
    pub name_ttl: Duration,
    /// New names from one source, an hour; as many at once.
    pub new_names_per_source: u32,
    /// Requests that wait for a name, in all.
    pub requests: usize,
    /// Requests and relations that one client may have open.
    pub requests_per_client: usize,
    /// Relations in all.
    pub relations: usize,
    /// Relations of one host: clients that it lets in or is asked about.
    pub relations_per_host: usize,
    /// HELLOs answered for one source, a second; four times as many at once.
    pub hellos_per_source: u32,
    /// HELLOs over UDP answered in all, a second (an HMAC each).
    pub hellos: u32,
    /// Handshakes for one source, a second; four times as many at once.
    pub inits_per_source: u32,
    /// Handshakes in all, a second (about 0.15 ms of computing each).
    pub inits: u32,
    /// Sources whose rates are known at a time (twice as many in memory).
    pub sources: usize,
    /// Bytes relayed for one relation in each direction, a second; as many at once. The relay carries
    /// negotiations, never payload.
    pub relay_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            associations: 65_536,
            associations_per_source: 1_024,
            names: 100_000,
            names_per_key: 16,
            name_ttl: Duration::from_secs(90 * 24 * 3600),
            new_names_per_source: 32,
            requests: 16_384,
            requests_per_client: 16,
            relations: 65_536,
            relations_per_host: 512,
            hellos_per_source: 64,
            hellos: 20_000,
            inits_per_source: 32,
            inits: 2_000,
            sources: 16_384,
            relay_bytes: 64 * 1024,
        }
    }
}
