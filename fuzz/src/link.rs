//! The link handshake on a connection that anybody may have made.

use punchtunnel::secure::{LinkInitiator, LinkProgress, LinkResponder, Psk};

use super::{keys::key, script::Script};

const SESSION: [u8; 16] = [5; 16];

/// Both sides, with damaged or foreign bytes in between, in pieces of any size.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (ours, theirs) = (key(1), key(2));
    let psk = Psk::none();
    let epoch = u32::from(script.byte());
    let (mut initiator, first) = LinkInitiator::new([3; 32], ours, &theirs.public(), &SESSION, &psk, epoch);
    let mut responder = LinkResponder::new([4; 32], theirs, ours.public(), &SESSION, &psk);
    let sent = script.damage(first.clone());
    let honest = sent == first;
    let mut answers = Vec::new();
    pieces(&mut script, &sent, |piece| {
        let _ = responder.receive(piece);
        while let Some(progress) = responder.poll() {
            match progress {
                LinkProgress::Send(bytes) => answers.extend(bytes),
                LinkProgress::Nominated(..) => panic!("nobody has nominated it"),
            }
        }
    });
    assert!(answers.is_empty() || sent.starts_with(&first), "a stranger is not answered");
    let damaged = script.damage(answers.clone());
    let mut failed = false;
    pieces(&mut script, &damaged, |piece| failed |= initiator.receive(piece).is_err());
    if failed || !initiator.is_open() {
        return;
    }
    assert!(honest || damaged.starts_with(&answers), "only the other side opens it");
    let Ok((nominate, link, _)) = initiator.nominate() else { return };
    assert_eq!(link.epoch, epoch);
    let sent = script.damage(nominate.clone());
    let mut nominated = false;
    pieces(&mut script, &sent, |piece| {
        let _ = responder.receive(piece);
        while let Some(progress) = responder.poll() {
            nominated |= matches!(progress, LinkProgress::Nominated(..));
        }
    });
    assert!(!nominated || sent.starts_with(&nominate), "only the initiator nominates");
}

fn pieces(script: &mut Script<'_>, bytes: &[u8], mut take: impl FnMut(&[u8])) {
    let size = usize::from(script.byte()) + 1;
    bytes.chunks(size).for_each(&mut take);
}
