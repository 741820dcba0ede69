//! What the server keeps on disk: which name belongs to which key. Written by a thread, and one transaction
//! takes all that came during the last one; [`Progress`] says how far it is, because nobody is promised a
//! name before it is on disk.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{identity::IdentityError, net::clock, rendezvous::Store, secure::PublicKey};

/// Name to owner's key and the second since 1970 at which it was last registered.
const NAMES: TableDefinition<'static, &str, (&[u8; 32], u64)> = TableDefinition::new("names");

/// Changes that wait for the disk. What does not fit waits in the core, where a name is listed once
/// however often it changes.
const QUEUE: usize = 1024;

/// How long a disk that does not take the names is left alone: somebody must make room first.
const RETRY: Duration = Duration::from_secs(10);

/// Most names whose change waits for a disk that takes none: as many as a large server has. Further ones wait in
/// the core.
const MAX_UNWRITTEN: usize = 65_536;

/// How many of the changes that were taken, in their order, came to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// So many are on disk.
    pub(super) stored: u64,
    /// So many could not be written when it was last tried, except those that are.
    pub(super) unstored: u64,
}

/// A name as it was stored: name, owner, last seen.
pub(super) type Stored = (String, PublicKey, u64);

/// The thread that writes.
pub(super) struct Writer {
    changes: Option<SyncSender<Store>>,
    /// A change that did not fit into the queue.
    waiting: Option<Store>,
    thread: Option<JoinHandle<()>>,
    progress: watch::Sender<Progress>,
}

impl Writer {
    /// A store that forgets everything with the process.
    pub(super) fn in_memory() -> Self {
        Writer { changes: None, waiting: None, thread: None, progress: watch::Sender::default() }
    }

    /// Opens the database, and returns what is in it.
    ///
    /// # Errors
    /// It cannot be opened or read, or another process has it open.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Stored>), IdentityError> {
        let failed = |operation, error: redb::Error| IdentityError::Io {
            operation,
            path: path.to_owned(),
            source: match error {
                redb::Error::DatabaseAlreadyOpen => io::Error::other(
                    "another \"punchtunnel rendezvous\" uses it; stop that one, or give this one its own --data",
                ),
                redb::Error::Io(error) => error,
                error => io::Error::other(error),
            },
        };
        let database = Database::create(path).map_err(|e| failed("open", e.into()))?;
        let stored = read(&database).map_err(|e| failed("read", e))?;
        let (changes, queue) = sync_channel(QUEUE);
        let progress = watch::Sender::default();
        let (again, tell) = (path.to_owned(), progress.clone());
        let thread = std::thread::Builder::new()
            .name("names".into())
            .spawn(move || write_all(database, &queue, &tell, || Ok(Database::create(&again)?)))
            .map_err(|e| failed("write", redb::Error::Io(e)))?;
        Ok((Writer { changes: Some(changes), waiting: None, thread: Some(thread), progress }, stored))
    }

    /// How far it is, from now on.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Takes changes for as long as there is room for them.
    pub(super) fn take(&mut self, mut next: impl FnMut() -> Option<Store>) {
        while let Some(change) = self.waiting.take().or_else(&mut next) {
            match self.changes.as_ref().map(|changes| changes.try_send(change)) {
                Some(Err(TrySendError::Full(change))) => {
                    self.waiting = Some(change);
                    return;
                }
                Some(Ok(())) => {}
                // Nothing else is promised of a store that forgets.
                None => self.progress.send_modify(|progress| progress.stored += 1),
                Some(Err(TrySendError::Disconnected(_))) => {
                    self.progress.send_modify(|progress| progress.unstored = u64::MAX);
                }
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
            thread.thread().unpark();
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

/// A database whose disk has failed once takes nothing any more: it is opened `again`, and what could not
/// be written is kept until then. Who owns a name must not be forgotten because a disk was full.
fn write_all(
    database: Database,
    queue: &Receiver<Store>,
    progress: &watch::Sender<Progress>,
    again: impl Fn() -> Result<Database, redb::Error>,
) {
    let mut database = Some(database);
    let mut unwritten = BTreeMap::new();
    let mut received = 0;
    let mut is_open = true;
    while is_open {
        is_open = match database {
            Some(_) => collect(queue, None, &mut unwritten, &mut received),
            None => collect(queue, Some(RETRY), &mut unwritten, &mut received),
        };
        let open = database.take().map_or_else(&again, Ok);
        match open.and_then(|open| write(&open, unwritten.values()).map(|()| open)) {
            Ok(open) => {
                database = Some(open);
                unwritten.clear();
                progress.send_modify(|progress| progress.stored = received);
            }
            Err(error) => {
                let names = unwritten.len();
                tracing::error!(%error, names, "names are not written to disk; trying on");
                progress.send_modify(|progress| progress.unstored = received);
            }
        }
    }
}

/// Waits for the next change and takes all that came while the disk was busy; or takes what comes for so long.
/// False when there will be no more.
fn collect(
    queue: &Receiver<Store>,
    wait: Option<Duration>,
    unwritten: &mut BTreeMap<String, Store>,
    received: &mut u64,
) -> bool {
    let mut keep = |change: Store| {
        let (Store::Put { name, .. } | Store::Forget { name }) = &change;
        unwritten.insert(name.clone(), change);
        *received += 1;
        unwritten.len() < MAX_UNWRITTEN
    };
    let Some(wait) = wait else {
        let first = queue.recv();
        let is_open = first.is_ok();
        for change in first.into_iter().chain(queue.try_iter().take(QUEUE)) {
            keep(change);
        }
        return is_open;
    };
    let until = clock::now() + wait;
    loop {
        let left = until.saturating_duration_since(clock::now());
        match queue.recv_timeout(left) {
            Ok(change) => {
                if !keep(change) {
                    // No room: the others wait in the queue, and behind that in the core.
                    std::thread::park_timeout(left);
                }
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn write<'s>(database: &Database, changes: impl Iterator<Item = &'s Store>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(NAMES)?;
        for change in changes {
            match change {
                Store::Put { name, key, last_seen } => {
                    table.insert(name.as_str(), (&key.0, *last_seen))?;
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
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

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

    /// A disk that takes nothing while it is full.
    #[derive(Debug)]
    struct Disk {
        memory: redb::backends::InMemoryBackend,
        full: Arc<AtomicBool>,
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }
        fn set_len(&self, length: u64) -> io::Result<()> {
            self.memory.set_len(length)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.memory.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            match self.full.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => self.memory.write(offset, data),
            }
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_written_once_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.redb");
        let full = Arc::new(AtomicBool::new(false));
        let disk = Disk { memory: redb::backends::InMemoryBackend::new(), full: full.clone() };
        let failing = Database::builder().create_with_backend(disk).unwrap();
        full.store(true, Ordering::Relaxed);
        let (changes, queue) = sync_channel(QUEUE);
        changes.send(put("a", 1)).unwrap();
        let progress = watch::Sender::default();
        let writing = {
            let (path, progress) = (path.clone(), progress.clone());
            std::thread::spawn(move || {
                write_all(failing, &queue, &progress, || Ok(Database::create(&path)?));
            })
        };
        // It is not said to be on disk before it is.
        let until = |what: fn(&Progress) -> bool| {
            while !what(&progress.borrow()) {
                std::thread::yield_now();
            }
        };
        until(|progress| progress.unstored == 1);
        assert_eq!(progress.borrow().stored, 0);
        // The end of the channel brings another try.
        drop(changes);
        writing.join().unwrap();
        assert_eq!(progress.borrow().stored, 1);
        let (_writer, stored) = Writer::open(&path).unwrap();
        assert_eq!(stored, [("a".to_owned(), PublicKey([4; 32]), 1)]);
    }

    #[test]
    fn a_database_in_use_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.redb");
        let (_writer, _) = Writer::open(&path).unwrap();
        let error = Writer::open(&path).err().unwrap();
        assert!(
            error.to_string().contains("names.redb: another \"punchtunnel rendezvous\" uses it"),
            "{error}"
        );
    }
}
