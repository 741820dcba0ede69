//! Connects at an instant, to a fraction of a millisecond.
//!
//! The runtime's timers count in milliseconds and share their thread with everything else, so the
//! openings of a burst wait on a thread of their own, which sleeps until the instant and then does
//! nothing but `connect`: all sockets are created and bound by then, and a thousand SYNs leave within
//! about ten milliseconds.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::sync::oneshot;

use super::{open::Happened, socket};
use crate::{endpoint::PortsId, net::clock};

/// Openings due this soon leave now: shorter than the kernel's timers are precise.
const SLACK: Duration = Duration::from_micros(80);

/// A socket whose SYN has left, or why not.
pub(super) type Started = (Socket, io::Result<()>);

/// An opening that waits for its instant.
pub(super) struct Order {
    /// The set and the number of the opening.
    pub(super) opening: (PortsId, u32),
    /// When.
    pub(super) at: Instant,
    /// The bound socket.
    pub(super) socket: Socket,
    /// Where to.
    pub(super) remote: SocketAddr,
    /// Time to live of the first SYN.
    pub(super) ttl: Option<u8>,
    /// Where the socket goes back to. An order whose receiver is gone is not carried out.
    pub(super) done: oneshot::Sender<Started>,
}

/// The thread. It ends when this is dropped.
pub(super) struct Burst {
    orders: mpsc::Sender<Order>,
}

impl Burst {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(report: tokio::sync::mpsc::Sender<Happened>) -> io::Result<Self> {
        let (orders, waiting) = mpsc::channel();
        std::thread::Builder::new().name("openings".into()).spawn(move || run(&waiting, &report))?;
        Ok(Burst { orders })
    }

    /// Takes an order. Where the thread is gone, the order's receiver learns it.
    pub(super) fn order(&self, order: Order) {
        self.orders.send(order).ok();
    }
}

fn run(waiting: &mpsc::Receiver<Order>, report: &tokio::sync::mpsc::Sender<Happened>) {
    // Orders of the same instant leave in the order in which they came.
    let mut orders: BTreeMap<(Instant, u64), Order> = BTreeMap::new();
    let mut count = 0;
    loop {
        let next = match orders.keys().next() {
            None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((at, _)) => waiting.recv_timeout(at.saturating_duration_since(clock::now())),
        };
        match next {
            Ok(order) => {
                count += 1;
                orders.insert((order.at, count), order);
                // Take in the whole burst before looking at the clock.
                for order in waiting.try_iter() {
                    count += 1;
                    orders.insert((order.at, count), order);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let mut left: BTreeMap<PortsId, Vec<(u32, Instant)>> = BTreeMap::new();
        for ((ports, opening), at) in open_due(&mut orders) {
            left.entry(ports).or_default().push((opening, at));
        }
        for (ports, left) in left {
            // Only for people to read: nobody waits for it.
            report.try_send(Happened::Left { ports, left }).ok();
        }
    }
}

/// Connects what is due, and only then wakes those who wait: a wake-up costs more than a connect. Answers
/// with what has left, and when.
fn open_due(orders: &mut BTreeMap<(Instant, u64), Order>) -> Vec<((PortsId, u32), Instant)> {
    let due = clock::now() + SLACK;
    let (mut opened, mut left) = (Vec::new(), Vec::new());
    while let Some(entry) = orders.first_entry()
        && entry.key().0 <= due
    {
        let order = entry.remove();
        if !order.done.is_closed() {
            left.push((order.opening, clock::now()));
            let result = socket::start(&order.socket, order.remote, order.ttl);
            opened.push((order.done, (order.socket, result)));
        }
    }
    for (done, started) in opened {
        done.send(started).ok();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::{super::socket::Family, *};

    #[tokio::test]
    async fn an_opening_leaves_at_its_instant_and_not_before() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (report, mut reported) = tokio::sync::mpsc::channel(1);
        let burst = Burst::start(report).unwrap();
        let at = clock::now() + Duration::from_millis(30);
        let (done, opened) = oneshot::channel();
        let socket = socket::bound(Family::V4, 0).unwrap();
        let (opening, remote) = ((PortsId(3), 4), server.local_addr().unwrap());
        burst.order(Order { opening, at, socket, remote, ttl: None, done });
        let (_socket, result) = opened.await.unwrap();
        result.unwrap();
        assert!(clock::now() + SLACK >= at);
        let Some(Happened::Left { ports: PortsId(3), left }) = reported.recv().await else {
            panic!("not told")
        };
        assert!(matches!(left[..], [(4, left)] if left + SLACK >= at));
    }

    #[test]
    fn an_opening_that_nobody_waits_for_any_more_does_not_leave() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let remote = server.local_addr().unwrap();
        let order = |done| Order {
            opening: (PortsId(1), 1),
            at: clock::now(),
            socket: socket::bound(Family::V4, 0).unwrap(),
            remote,
            ttl: None,
            done,
        };
        let mut orders = BTreeMap::new();
        orders.insert((clock::now(), 0), order(oneshot::channel().0));
        open_due(&mut orders);
        assert!(orders.is_empty());
        assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
