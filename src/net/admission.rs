//! Who is let in: asked of the program, which knows its files, its database or its user.

use tokio::sync::mpsc;

use crate::{
    endpoint::{AskId, Input},
    identity::Grant,
    secure::{Psk, PublicKey},
    wire::{peer::Goodbye, server::Decline},
};

/// Decides who is let in. The default is nobody.
pub trait Admission: Send + Sync + 'static {
    /// May this client come in? Answer by [`Question::admit`] or [`Question::decline`], now or later
    /// from anywhere; a question that is dropped is declined.
    ///
    /// This runs on the task that serves all clients: answer from memory or a small file, or take the
    /// question elsewhere.
    fn ask(&self, question: Question);

    /// A client that named an invite has proved its secret: the place to use the invite up and to
    /// remember the key. Also called, with no invite, for every other client that comes in; and on the
    /// client's side for the host, once it has proved itself.
    ///
    /// # Errors
    /// What to tell the client if it is not to come in after all (the invite was used by somebody else
    /// in between).
    fn admitted(&self, key: &PublicKey, invite: Option<u64>) -> Result<(), Goodbye> {
        let _ = (key, invite);
        Ok(())
    }

    /// Which services this client may use, of all that are exposed: asked for each stream that it opens, and
    /// for those that it has whenever [`Host::reconsider`](super::Host::reconsider) is called. Answer from memory.
    fn grant(&self, key: &PublicKey) -> Grant {
        let _ = key;
        Grant::All
    }
}

/// A client that wants to come in. It has proved to hold its key.
#[derive(Debug)]
pub struct Question {
    key: PublicKey,
    invite: Option<u64>,
    ask: AskId,
    commands: Option<mpsc::WeakSender<Input>>,
}

impl Question {
    pub(crate) fn new(
        key: PublicKey,
        invite: Option<u64>,
        ask: AskId,
        commands: mpsc::WeakSender<Input>,
    ) -> Self {
        Question { key, invite, ask, commands: Some(commands) }
    }

    /// The client's key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Public part of the invite that the client names. Whether it has the secret is not known yet.
    pub fn invite(&self) -> Option<u64> {
        self.invite
    }

    /// Lets the client in: with the invite's secret, or with [`Psk::none`] where none is needed.
    pub fn admit(mut self, psk: Psk) {
        self.answer(Ok(psk));
    }

    /// Does not let the client in, and says why.
    pub fn decline(mut self, why: Decline) {
        self.answer(Err(why));
    }

    fn answer(&mut self, verdict: Result<Psk, Decline>) {
        let Some(commands) = self.commands.take().and_then(|weak| weak.upgrade()) else { return };
        let input = Input::Admit { ask: self.ask, verdict };
        if let Err(mpsc::error::TrySendError::Full(input)) = commands.try_send(input) {
            // The answer may come from the agent's own task, which cannot wait for itself.
            tokio::spawn(async move { commands.send(input).await.ok() });
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.answer(Err(Decline::Unauthorised));
    }
}

/// Lets in the keys of a list.
impl Admission for Vec<PublicKey> {
    fn ask(&self, question: Question) {
        if self.contains(question.key()) {
            question.admit(Psk::none());
        } else {
            question.decline(Decline::Unauthorised);
        }
    }
}

/// Lets nobody in.
impl Admission for () {
    fn ask(&self, question: Question) {
        question.decline(Decline::Unauthorised);
    }
}
