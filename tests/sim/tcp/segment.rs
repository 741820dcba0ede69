//! A packet with what the NAT model does not look at.

use crate::nat_model::{Kind, Packet};

/// A packet with what the NAT model does not look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub packet: Packet,
    /// First sequence number; for ICMP, that of the packet it is about.
    pub seq: u64,
    /// Next number expected; valid with the ACK flag.
    pub ack: u64,
    /// TCP's or UDP's payload.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A packet that is sent back in answer to this one by somebody without a connection.
    pub fn answer(&self, packet: Packet) -> Segment {
        let Kind::Tcp(flags) = self.packet.kind else {
            return Segment { packet, seq: 0, ack: 0, payload: Vec::new() };
        };
        let seq = match packet.kind {
            Kind::Icmp { .. } => self.seq,
            _ if flags.ack => self.ack,
            _ => 0,
        };
        Segment { packet, seq, ack: self.end(), payload: Vec::new() }
    }

    /// The number after the segment's last.
    pub(super) fn end(&self) -> u64 {
        let Kind::Tcp(flags) = self.packet.kind else { return self.seq };
        self.seq + self.payload.len() as u64 + u64::from(flags.syn) + u64::from(flags.fin)
    }
}
