//! What the server keeps on disk: which name belongs to which key. Written behind, by a thread.

use std::{
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{identity::IdentityError, rendezvous::Store, secure::PublicKey};

/// Name to owner's key and the second since 1970 at which it was last registered.
const NAMES: TableDefinition<'static, &str, (&[u8; 32], u64)> = TableDefinition::new("names");

/// Changes that wait for the disk. What does not fit waits in the core, where a name is listed once
/// however often it changes.
const QUEUE: usize = 1024;

/// A name as it was stored: name, owner, last seen.
pub(super) type Stored = (String, PublicKey, u64);

/// The thread that writes.
pub(super) struct Writer {
    changes: Option<SyncSender<Store>>,
    /// A change that did not fit into the queue.
    waiting: Option<Store>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// A store that forgets everything with the process.
    pub(super) fn in_memory() -> Self {
        Writer { changes: None, waiting: None, thread: None }
    }

    /// Opens the database, and returns what is in it.
    ///
    /// # Errors
    /// It cannot be opened or read, or another process has it open.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Stored>), IdentityError> {
        let failed = |operation, error: redb::Error| IdentityError::Io {
            operation,
            path: path.to_owned(),
            source: std::io::Error::other(error),
        };
        let database = Database::create(path).map_err(|e| failed("open", e.into()))?;
        let stored = read(&database).map_err(|e| failed("read", e))?;
        let (changes, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("names".into())
            .spawn(move || write_all(&database, &queue))
            .map_err(|e| failed("write", redb::Error::Io(e)))?;
        Ok((Writer { changes: Some(changes), waiting: None, thread: Some(thread) }, stored))
    }

    /// Takes changes for as long as there is room for them.
    pub(super) fn take(&mut self, mut next: impl FnMut() -> Option<Store>) {
        while let Some(change) = self.waiting.take().or_else(&mut next) {
            match self.changes.as_ref().map(|changes| changes.try_send(change)) {
                Some(Err(TrySendError::Full(change))) => {
                    self.waiting = Some(change);
                    return;
                }
                Some(Ok(()) | Err(TrySendError::Disconnected(_))) | None => {}
            }
        }
    }

    /// Takes the last changes and waits until everything is on disk.
    pub(super) fn finish(mut self, mut next: impl FnMut() -> Option<Store>) {
        if let Some(changes) = self.changes.take() {
            while let Some(change) = self.waiting.take().or_else(&mut next) {
                if changes.send(change).is_err() {
                    break;
                }
            }
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn read(database: &Database) -> Result<Vec<Stored>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(NAMES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in table.iter()? {
        let (name, value) = entry?;
        let (key, last_seen) = value.value();
        names.push((name.value().to_owned(), PublicKey(*key), last_seen));
    }
    Ok(names)
}

fn write_all(database: &Database, queue: &Receiver<Store>) {
    while let Ok(first) = queue.recv() {
        // One transaction for everything that came while the disk was busy with the last one.
        if let Err(error) = write(database, std::iter::once(first).chain(queue.try_iter())) {
            tracing::error!(%error, "names are not written to disk");
        }
    }
}

fn write(database: &Database, changes: impl Iterator<Item = Store>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(NAMES)?;
        for change in changes {
            match change {
                Store::Put { name, key, last_seen } => {
                    table.insert(name.as_str(), (&key.0, last_seen))?;
                }
                Store::Forget { name } => {
                    table.remove(name.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, last_seen: u64) -> Store {
        Store::Put { name: name.into(), key: PublicKey([4; 32]), last_seen }
    }

    #[test]
    fn names_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.redb");
        let (mut writer, stored) = Writer::open(&path).unwrap();
        assert_eq!(stored, []);
        let mut changes = vec![put("a", 1), put("b", 2), Store::Forget { name: "a".into() }].into_iter();
        writer.take(|| changes.next());
        let mut last = Some(put("b", 3));
        writer.finish(|| last.take());
        let (_writer, stored) = Writer::open(&path).unwrap();
        assert_eq!(stored, [("b".to_owned(), PublicKey([4; 32]), 3)]);
    }

    #[test]
    fn a_database_in_use_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.redb");
        let (_writer, _) = Writer::open(&path).unwrap();
        let error = Writer::open(&path).err().unwrap();
        assert!(error.to_string().contains("names.redb"), "{error}");
    }
}
