//! Links that are killed again and again, under transfers and under many connections.
//!
//! What runs by default is short; `PUNCHTUNNEL_LAB_LONG=1` makes it ten runs of 1 GB each way, and 1000
//! deaths.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    flows::Fate,
    parties::{LOCAL_PORT, Parties},
    process::{PATIENCE, Process, Record, Usage},
    scene::Scene,
    service::{Service, connect, greeted},
};

/// A link lives for so long after bytes flowed over it.
const LIFE: Duration = Duration::from_secs(2);

/// Everybody is this far from everybody else.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Concurrent connections under many deaths.
const CONNECTIONS: usize = 50;

/// The program keeps the ports of a round for 4 s after its link was chosen: what it holds before anything is
/// harmed is counted after that, or too much would be allowed later.
const SETTLED: Duration = Duration::from_secs(5);

/// A link that lived for so long has shown that links live (`src/endpoint/brief.rs`).
const LINK_LIVES: Duration = Duration::from_secs(11);

/// Memory may be this much more than before: an allocator does not give back everything.
const SLACK_KB: u64 = 16 * 1024;

pub fn cells() -> Vec<Cell> {
    let (bytes, runs, deaths) = if is_long() { (1_000_000_000, 10, usize::MAX) } else { (60_000_000, 1, 3) };
    let kills = if is_long() { 1000 } else { 40 };
    let mut cells = Vec::new();
    for run in 1..=runs {
        let name = format!("kills::both_ways_at_once_arrive_whole_over_links_that_die_run_{run}");
        cells.push(Cell::new(name, Needs::Nothing, move |record| transfer(record, run, bytes, deaths)));
    }
    cells.push(Cell::new("kills::nothing_is_left_of_links_that_died", Needs::Nothing, move |record| {
        many(record, kills)
    }));
    cells
}

/// More than continuous integration has time for.
pub fn is_long() -> bool {
    std::env::var_os("PUNCHTUNNEL_LAB_LONG").is_some()
}

/// Sends `bytes` both ways at once while the link dies by reset, silence and flush in turn, each time when
/// bytes have flowed for two seconds.
fn transfer(record: &Record, run: u64, bytes: u64, deaths: usize) -> Result<()> {
    BYTES.get_or_init(|| bytes);
    // Slow enough to be interrupted in a short run.
    let rate = if is_long() { None } else { Some(6_000_000) };
    let scene = Scene::new(run, ROUND_TRIP, rate)?;
    let service = Service::start(&scene.home, |stream| exchange(stream, &AtomicU64::new(0)))?;
    let parties = Parties::start(record, scene.hosts(), scene.vps.address, service.port)?;
    let process = parties.connect()?;
    process.line("listening on")?;
    let stream = connect(&scene.laptop, LOCAL_PORT)?;
    let received = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let (over, ended) = mpsc::channel::<()>();
    let client = {
        let received = Arc::clone(&received);
        std::thread::spawn(move || {
            // Dropped at the end, however it ends.
            let _over = over;
            exchange(stream, &received)
        })
    };
    let mut killed = 0;
    while killed < deaths && flows(&client, &received, 1)? {
        if ended.recv_timeout(LIFE) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        let what = ["reset", "silence", "flush"][killed % 3];
        match what {
            "reset" => drop(scene.kill(Fate::Reset)),
            "silence" => drop(scene.kill(Fate::Silence)),
            _ => scene.flush(),
        }
        record.add(&"test".into(), format!("{what} after {} bytes", received.load(Ordering::Relaxed)));
        // What is still on its way arrives now: bytes flow again when these are not the last ones.
        std::thread::sleep(ROUND_TRIP);
        killed += 1;
    }
    client.join().map_err(|_| "the client panicked")?.map_err(|error| failed("the client", error))?;
    let took = start.elapsed();
    let rate = 2.0 * bytes as f64 / 1e6 / took.as_secs_f64();
    eprintln!(
        "lab: {} MB each way at once over a link that died {killed} times: {took:.1?}, {rate:.0} MB/s, \
         all bytes right on both sides",
        bytes / 1_000_000
    );
    ensure(killed >= deaths.min(3), || format!("only {killed} deaths"))
}

/// Waits until the client has received more, at most for [`PATIENCE`]; false at its end.
fn flows<T>(client: &JoinHandle<T>, received: &AtomicU64, least: u64) -> Result<bool> {
    let (before, deadline) = (received.load(Ordering::Relaxed), Instant::now() + PATIENCE);
    while received.load(Ordering::Relaxed) < before + least {
        if client.is_finished() {
            return Ok(false);
        }
        ensure(Instant::now() < deadline, || "no byte came any more".to_owned())?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// How much each side of [`exchange`] sends.
static BYTES: OnceLock<u64> = OnceLock::new();

/// Sends the pattern and ends that direction, while it receives the same and checks every byte. Whoever has
/// received everything, the other side's end too, says so in a last word of its own.
fn exchange(mut stream: TcpStream, received: &AtomicU64) -> io::Result<()> {
    let total = BYTES.get().copied().unwrap_or_default();
    let pattern = Pattern::new();
    let mut sender = stream.try_clone()?;
    let sending = std::thread::spawn(move || {
        let (pattern, mut at) = (Pattern::new(), 0);
        while at < total {
            let piece = pattern.at(at, (total - at).min(64 * 1024) as usize);
            sender.write_all(piece)?;
            at += piece.len() as u64;
        }
        sender.shutdown(Shutdown::Write)
    });
    let (mut buffer, mut at) = (vec![0; 64 * 1024], 0);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        pattern.check(at, &buffer[..length])?;
        at += length as u64;
        received.store(at, Ordering::Relaxed);
    }
    sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
    if at == total { Ok(()) } else { Err(io::Error::other(format!("{at} bytes instead of {total}"))) }
}

/// Bytes of which no two pieces are alike, without an end.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// A prime, so that no piece of a round size that is missing or twice goes unnoticed.
    const LENGTH: usize = 1_000_003;

    pub fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = std::iter::repeat_with(|| {
            // xorshift64 (Marsaglia, 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        Self(bytes.take(Self::LENGTH).collect())
    }

    /// Makes sure that these are the bytes from there on.
    pub fn check(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let expected = self.at(at, bytes.len());
            if !bytes.starts_with(expected) {
                return Err(io::Error::other(format!("wrong bytes after {at}")));
            }
            bytes = &bytes[expected.len()..];
            at += expected.len() as u64;
        }
        Ok(())
    }

    /// The bytes from there on, at least one and at most `length`.
    pub fn at(&self, at: u64, length: usize) -> &[u8] {
        let from = (at % Self::LENGTH as u64) as usize;
        &self.0[from..Self::LENGTH.min(from + length)]
    }
}

/// Kills the link `kills` times under many connections, and counts what the two programs hold before and
/// after.
fn many(record: &Record, kills: usize) -> Result<()> {
    let scene = Scene::new(1, ROUND_TRIP, None)?;
    let service = Service::echo(&scene.home)?;
    let parties = Parties::start(record, scene.hosts(), scene.vps.address, service.port)?;
    let (process, first, _) = parties.connect_and_greet()?;
    let programs = [&parties.expose, &process];
    // One death and one crowd before counting: what is made once is not left behind.
    let crowd = Crowd::start(&scene)?;
    one_more(&scene, &crowd)?;
    crowd.end()?;
    std::thread::sleep(SETTLED);
    let before = usage(programs)?;
    let crowd = Crowd::start(&scene)?;
    let start = Instant::now();
    for kill in 1..=kills {
        one_more(&scene, &crowd)?;
        // A client pauses where no link lives for long, because then it may be its host that ends them.
        if kill % 100 == 0 {
            std::thread::sleep(LINK_LIVES);
        }
    }
    let took = start.elapsed();
    let peak = usage(programs)?;
    let bytes = crowd.end()?;
    let deadline = Instant::now() + PATIENCE;
    let after = loop {
        let after = usage(programs)?;
        let back = after.iter().zip(&before).all(|(after, before)| after.is_back_at(before, SLACK_KB));
        if back || Instant::now() > deadline {
            eprintln!(
                "lab: {kills} deaths under {CONNECTIONS} connections in {took:.1?}, {} MB echoed; \
                 host and client before {before:?}, in between {peak:?}, after {after:?}",
                bytes / 1_000_000
            );
            ensure(back, || format!("left behind: {before:?} before, {after:?} after"))?;
            break after;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    record.add(&"test".into(), format!("{after:?}"));
    drop(first);
    Ok(())
}

fn usage(programs: [&Process; 2]) -> Result<[Usage; 2]> {
    Ok([programs[0].usage()?, programs[1].usage()?])
}

/// Kills the link, and waits until everybody has received something since.
fn one_more(scene: &Scene, crowd: &Crowd) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while scene.kill(Fate::Reset) == 0 {
        ensure(Instant::now() < deadline, || "no link that could be killed".to_owned())?;
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(ROUND_TRIP);
    let before: Vec<u64> = crowd.members.iter().map(|(_, count)| count.load(Ordering::Relaxed)).collect();
    for ((thread, count), before) in crowd.members.iter().zip(before) {
        while count.load(Ordering::Relaxed) <= before {
            ensure(!thread.is_finished(), || "a connection ended".to_owned())?;
            ensure(Instant::now() < deadline, || "no byte came any more".to_owned())?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Connections that are all in use.
struct Crowd {
    stop: Arc<AtomicBool>,
    members: Vec<(JoinHandle<Result<()>>, Arc<AtomicU64>)>,
}

impl Crowd {
    fn start(scene: &Scene) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut members = Vec::new();
        for number in 0..CONNECTIONS {
            let (stop, count) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            let mut stream = connect(&scene.laptop, LOCAL_PORT)?;
            let counting = Arc::clone(&count);
            let thread = std::thread::spawn(move || {
                greeted(&mut stream)?;
                let pattern = Pattern::new();
                let mut at = number as u64 * 10_007;
                let mut buffer = [0; 1000];
                while !stop.load(Ordering::Relaxed) {
                    let piece = pattern.at(at, buffer.len());
                    stream.write_all(piece).map_err(|error| failed("writing", error))?;
                    let echo = &mut buffer[..piece.len()];
                    stream.read_exact(echo).map_err(|error| failed("reading", error))?;
                    ensure(echo == piece, || format!("wrong bytes at {at}"))?;
                    at += piece.len() as u64;
                    counting.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
                stream.shutdown(Shutdown::Write).map_err(|error| failed("ending", error))?;
                let rest = stream.read(&mut buffer).map_err(|error| failed("reading the end", error))?;
                ensure(rest == 0, || format!("{rest} bytes that nobody sent"))
            });
            members.push((thread, count));
        }
        Ok(Self { stop, members })
    }

    /// Ends all of them; the bytes that were echoed.
    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut bytes = 0;
        for (thread, count) in self.members {
            thread.join().map_err(|_| "a client panicked")??;
            bytes += count.load(Ordering::Relaxed);
        }
        Ok(bytes)
    }
}
