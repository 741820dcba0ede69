//! A mux whose peer sends any frames, while this side opens, writes, reads and resets.

use bytes::{Bytes, BytesMut};
use punchtunnel::{
    mux::{Mux, MuxEvent},
    wire::stream::{OpenRequest, ResetReason},
};

use super::script::{Script, start};

/// Bytes of a record.
const RECORD: usize = 64 * 1024;
/// Streams that the script knows by number.
const KNOWN: usize = 16;

/// Plays the script.
pub(crate) fn run(bytes: &[u8]) {
    let (mut script, mut now) = (Script::new(bytes), start());
    let mut mux = Mux::new(script.byte() % 2 == 0);
    let mut streams = Vec::new();
    let mut out = BytesMut::new();
    while !script.is_over() {
        let choice = script.byte();
        let one = streams.get(usize::from(choice / 16) % streams.len().max(1)).copied();
        match (choice % 16, one) {
            (0..=7, _) => {
                let body = frames(&mut script, choice);
                if mux.handle_body(now, body).is_err() {
                    mux.end();
                    return;
                }
            }
            (8, _) => {
                let request = OpenRequest { service: None };
                streams.extend(mux.open(&request).ok());
            }
            (9, Some(id)) => {
                let count = mux.writable(id).min(usize::from(script.u16()));
                let _ = mux.write(id, Bytes::from(vec![7; count]));
            }
            (10, Some(id)) => while mux.read(now, id, None).is_some() {},
            (11, Some(id)) => mux.finish(id),
            (12, Some(id)) => mux.reset(id, ResetReason::Refused),
            _ => now += script.duration(),
        }
        while let Some(event) = mux.poll_event() {
            if let MuxEvent::Opened { id, .. } = event {
                streams.push(id);
            }
        }
        streams.truncate(KNOWN);
        out.clear();
        mux.fill(&mut out, RECORD);
        assert!(out.len() <= RECORD);
    }
}

/// A record's body: any bytes, or a frame of the script's making.
fn frames(script: &mut Script<'_>, choice: u8) -> Bytes {
    if choice.is_multiple_of(8) {
        return Bytes::copy_from_slice(script.bytes());
    }
    let (kind, stream) = (1 + script.byte() % 6, u32::from(script.byte() % 32));
    let payload = match kind {
        2 if choice >= 128 => vec![0; usize::from(script.u16())],
        5 => (script.u64() >> (script.byte() % 64)).to_be_bytes().to_vec(),
        _ => script.bytes().to_vec(),
    };
    let mut frame = vec![kind];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&payload);
    frame.into()
}
