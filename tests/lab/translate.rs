//! Between real packets and the NAT model's: what it sees, and writing back what it decided.

use std::net::SocketAddr;

use crate::{
    nat_model as model,
    packet::{End, Headers, Transport, flag},
};

/// What the model sees of a packet. An echo is to it a UDP datagram from the identifier as port.
pub fn model_packet(headers: &Headers, packet: &[u8]) -> Option<model::Packet> {
    let (src, dst) = (headers.source, headers.destination);
    let kind = match headers.transport {
        Transport::Udp | Transport::Service { .. } => model::Kind::Udp,
        Transport::Tcp { flags } => model::Kind::Tcp(model_flags(flags)),
        Transport::Error { kind, about } => {
            let about = Headers::read(packet.get(about..)?)?;
            let transport = match about.transport {
                Transport::Udp | Transport::Service { .. } => model::Transport::Udp,
                Transport::Tcp { .. } => model::Transport::Tcp,
                Transport::Error { .. } => return None,
            };
            let error = model_error(src.is_ipv4(), kind);
            model::Kind::Icmp {
                error,
                about: model::Tuple { transport, src: about.source, dst: about.destination },
            }
        }
    };
    Some(model::Packet { src, dst, ttl: model::TTL, kind })
}

/// Copies what the model has rewritten into the packet.
pub fn write_back(header: &model::Packet, mut headers: Headers, packet: &mut [u8]) {
    let changes = |old: SocketAddr, new: SocketAddr| (old != new).then_some(new);
    if let (Transport::Error { about, .. }, model::Kind::Icmp { about: tuple, .. }) =
        (headers.transport, header.kind)
        && let Some(mut inner) = packet.get(about..).and_then(Headers::read)
    {
        if let Some(new) = changes(inner.source, tuple.src) {
            inner.rewrite(&mut packet[about..], End::Source, new);
        }
        if let Some(new) = changes(inner.destination, tuple.dst) {
            inner.rewrite(&mut packet[about..], End::Destination, new);
        }
    }
    if let Some(new) = changes(headers.source, header.src) {
        headers.rewrite(packet, End::Source, new);
    }
    if let Some(new) = changes(headers.destination, header.dst) {
        headers.rewrite(packet, End::Destination, new);
    }
    headers.seal_error(packet);
}

/// TCP flags as the NAT model has them.
fn model_flags(flags: u8) -> model::Flags {
    model::Flags {
        syn: flags & flag::SYN != 0,
        ack: flags & flag::ACK != 0,
        fin: flags & flag::FIN != 0,
        rst: flags & flag::RST != 0,
    }
}

/// Type and code of an ICMP error as the NAT model has them.
fn model_error(ipv4: bool, kind: (u8, u8)) -> model::IcmpError {
    match (ipv4, kind) {
        (true, (3, 3)) | (false, (1, 4)) => model::IcmpError::PortUnreachable,
        (true, (11, _)) | (false, (3, _)) => model::IcmpError::TimeExceeded,
        _ => model::IcmpError::Prohibited,
    }
}
