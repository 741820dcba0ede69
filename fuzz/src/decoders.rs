//! Every decoder: an error, or something that encodes to what decodes to the same.

use std::{fmt::Debug, str::FromStr};

use bytes::Bytes;
use punchtunnel::{
    channel::Body,
    forward::{LocalRule, Service},
    identity::{Code, Grant, Name, ServerName, Worked},
    mux::frame,
    secure::PublicKey,
    wire::{
        self, MAX_BODY, MAX_DATAGRAM, examine,
        packet::Packet,
        peer::{PeerHello, PeerMessage, PeerReply},
        probe::{self, MAX_ANSWER, ProbeAnswer, ProbeQuestion},
        record::RecordHeader,
        server::{ClientHello, FromServer, ServerHello, ToServer},
        stream::OpenRequest,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Datagrams, as far as they are in clear.
pub(crate) fn packet(bytes: &[u8]) {
    if let Ok(packet) = Packet::parse(bytes) {
        let encoded = packet.encode();
        assert_eq!(Packet::parse(&encoded), Ok(packet), "it is read back");
    }
    if let Some(nonce) = examine::parse_mirror(bytes) {
        assert_eq!(examine::parse_mirror(&examine::mirror(nonce)), Some(nonce));
    }
    if let Some((nonce, observed)) = examine::parse_mirrored(bytes) {
        assert_eq!(examine::parse_mirrored(&examine::mirrored(nonce, observed)), Some((nonce, observed)));
    }
}

/// What clients and server seal.
pub(crate) fn server_messages(bytes: &[u8]) {
    body::<Body<ToServer>>(bytes, MAX_DATAGRAM);
    body::<Body<FromServer>>(bytes, MAX_DATAGRAM);
    body::<ClientHello>(bytes, MAX_DATAGRAM);
    body::<ServerHello>(bytes, MAX_DATAGRAM);
}

/// What peers seal.
pub(crate) fn peer_messages(bytes: &[u8]) {
    body::<Body<PeerMessage>>(bytes, MAX_DATAGRAM);
    body::<PeerHello>(bytes, MAX_BODY);
    body::<PeerReply>(bytes, MAX_BODY);
}

/// What goes to and comes from probe ports.
pub(crate) fn probes(bytes: &[u8]) {
    if let Some(preamble) = bytes.first_chunk()
        && let Ok(purpose) = probe::parse_preamble(*preamble)
    {
        assert_eq!(probe::preamble(purpose), *preamble);
    }
    if let Some(question) = bytes.first_chunk()
        && let Ok(parsed) = ProbeQuestion::parse(question)
    {
        assert_eq!(parsed.encode(), *question);
    }
    body::<ProbeAnswer>(bytes, MAX_ANSWER);
}

/// What comes on a link, and what is inside of session records.
pub(crate) fn records(bytes: &[u8]) {
    if let Ok(Some(header)) = RecordHeader::parse(bytes) {
        assert_eq!(header.total(), header.size() + header.length());
    }
    let mut frames = Bytes::copy_from_slice(bytes);
    while let Ok(Some(_)) = frame::next(&mut frames) {}
    body::<OpenRequest>(bytes, MAX_BODY);
}

/// What people write.
pub(crate) fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    said_again::<Name>(text);
    said_again::<ServerName>(text);
    said_again::<PublicKey>(text);
    said_again::<Service>(text);
    said_again::<Grant>(text);
    let _ = text.parse::<LocalRule>();
    let _ = text.parse::<Worked>();
    let _ = ServerName::parse_with_key(text);
    if let Ok(code) = text.parse::<Code>() {
        let again: Code = code.reveal().parse().unwrap_or_else(|_| panic!("it is read back"));
        assert_eq!(again.id(), code.id());
    }
}

/// Decodes; what can be decoded can be encoded, and decodes to the same.
fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8], most: usize) {
    if let Ok(decoded) = wire::decode::<T>(bytes, most) {
        let encoded = wire::encode(&decoded);
        let again = wire::decode::<T>(&encoded, usize::MAX);
        assert_eq!(again.as_ref(), Ok(&decoded), "it is read back");
    }
}

fn said_again<T: FromStr + ToString + PartialEq + Debug>(text: &str) {
    if let Ok(parsed) = text.parse::<T>() {
        let said = parsed.to_string();
        assert_eq!(said.parse::<T>().ok().as_ref(), Some(&parsed), "{said:?} is read back");
    }
}
