//! A line between two namespaces: real kernels at both ends, and in between a rate with a queue in front of it and
//! a delay, which are kept here. It needs no scheduler of the kernel: netem is often not built in.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    error::Result,
    link::{Line, Link},
    namespace::Namespace,
    peers::{Ground, Place},
    tun::{MTU, Tun},
};

/// A thread looks up at least so often, to see whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Packets taken from a device before what is due goes out.
const BATCH: usize = 64;

/// Two namespaces and the line between them. All of it is gone when dropped.
pub struct Wire {
    near: Namespace,
    far: Namespace,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The addresses of the two ends.
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

impl Wire {
    /// A line that is the same in both directions.
    pub fn new(line: Line) -> Result<Self> {
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        let (here, there) = (end(&near, NEAR)?, end(&far, FAR)?);
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(here.clone(), there.clone()), (there, here)].map(|(from, to)| {
            let stop = stop.clone();
            std::thread::spawn(move || carry(&from, &to, Link::new(line), &stop))
        });
        Ok(Self { near, far, stop, threads: threads.into() })
    }

    /// Where tunnels go from and to.
    pub fn ground(&self) -> Ground<'_> {
        let place = |namespace, address| Place { namespace: Some(namespace), address: IpAddr::V4(address) };
        Ground { near: place(&self.near, NEAR), far: place(&self.far, FAR) }
    }

    /// Lets connections over the line have this congestion control. Only the machine's first namespace may set the
    /// parameter of that name to any of them; a route may have it everywhere.
    pub fn congestion_control(&self, name: &str) -> Result<()> {
        let route = format!("route replace 192.0.2.0/24 dev wire congctl {name}");
        self.near.ip(&route)?;
        self.far.ip(&route)
    }

    /// Sets a kernel parameter at both ends, by its path below /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.near.sysctl(path, value)?;
        self.far.sysctl(path, value)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

fn end(namespace: &Namespace, address: Ipv4Addr) -> Result<Arc<Tun>> {
    let tun = Tun::new(namespace, "wire")?;
    namespace.ip(&format!("address add {address}/24 dev wire"))?;
    Ok(Arc::new(tun))
}

/// Carries packets one way until told to stop.
fn carry(from: &Tun, to: &Tun, mut link: Link, stop: &AtomicBool) {
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    // Nothing is lost by chance.
    let mut rng = StdRng::seed_from_u64(0);
    while !stop.load(Ordering::Relaxed) {
        let wait = under_way
            .front()
            .map_or(LOOK_UP, |(due, _)| due.saturating_duration_since(Instant::now()).min(LOOK_UP));
        let wait = Timespec::try_from(wait).unwrap_or_default();
        let readable =
            poll(&mut [PollFd::new(&from.as_fd(), PollFlags::IN)], Some(&wait)).is_ok_and(|ready| ready > 0);
        for _ in 0..if readable { BATCH } else { 0 } {
            let mut packet = spare.pop().unwrap_or_default();
            packet.resize(MTU, 0);
            let Ok(Some(length)) = from.read(&mut packet) else { break };
            packet.truncate(length);
            match link.carry(Instant::now(), length, &mut rng) {
                Some(due) => under_way.push_back((due, packet)),
                None => spare.push(packet),
            }
        }
        let now = Instant::now();
        while under_way.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, packet)) = under_way.pop_front() else { break };
            // What the kernel refuses is lost, as on any wire.
            let _ = to.write(&packet);
            spare.push(packet);
        }
    }
}
