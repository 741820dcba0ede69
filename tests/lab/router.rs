//! The thread that runs a [`Network`].

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::OwnedFd,
};

use crate::{
    error::{Result, failed},
    network::Network,
};

/// A running network. It stops when dropped.
#[derive(Debug)]
pub struct Router {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    network: Mutex<Network>,
    /// Readable when the thread is to look up.
    bell: OwnedFd,
    stop: AtomicBool,
}

impl Router {
    /// Starts to carry packets.
    pub fn start(network: Network) -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK).map_err(|error| failed("eventfd", error))?;
        let shared = Arc::new(Shared { network: Mutex::new(network), bell, stop: AtomicBool::new(false) });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("router".into()).spawn(move || run(&shared))?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The network, held still.
    pub fn network(&self) -> MutexGuard<'_, Network> {
        self.shared.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // An eventfd takes eight bytes; it cannot be full.
        let _ = rustix::io::write(&self.shared.bell, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and the test has failed by it.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    // Devices are added before the start only: their descriptors stay the same.
    let devices: Vec<OwnedFd> = {
        let network = shared.network.lock().unwrap_or_else(PoisonError::into_inner);
        network.devices().filter_map(|tun| tun.as_fd().try_clone_to_owned().ok()).collect()
    };
    let mut readable = vec![true; devices.len()];
    while !shared.stop.load(Ordering::Acquire) {
        let next = shared.network.lock().unwrap_or_else(PoisonError::into_inner).turn(&readable);
        let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut polled: Vec<PollFd<'_>> =
            devices.iter().chain([&shared.bell]).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        if poll(&mut polled, wait.as_ref()).is_ok() {
            for (readable, polled) in readable.iter_mut().zip(&polled) {
                *readable = !polled.revents().is_empty();
            }
        }
    }
}
