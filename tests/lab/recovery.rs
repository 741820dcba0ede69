//! How long a running application stands still when the link under it dies, or the network changes.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    flows::Fate,
    parties::Parties,
    process::Record,
    scene::Scene,
    service::Service,
};

/// Deaths of which the median counts.
const RUNS: usize = 3;

/// What the machine itself may take, beyond round trips.
const OVERHEAD: Duration = Duration::from_millis(150);

/// The silence after which a link is dead, unless its round trip asks for more patience.
const LEAST_SILENCE: Duration = Duration::from_secs(2);

/// Time between two messages of the service.
const TICK: Duration = Duration::from_millis(2);

/// The link carries data for so long before it is killed (again).
const QUIET_TIME: Duration = Duration::from_secs(1);

/// What happens to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Reset,
    Silence,
    /// The client's machine is in another network all at once.
    Move,
}

impl Death {
    /// Round trips that the recovery may take, and the time beside them.
    fn allowed(self) -> (u32, Duration) {
        match self {
            Death::Reset => (3, OVERHEAD),
            Death::Silence => (3, OVERHEAD),
            Death::Move => (8, OVERHEAD),
        }
    }
}

pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for death in [Death::Reset, Death::Silence, Death::Move] {
        for ms in [20, 100, 300] {
            let what = match death {
                Death::Reset => "a_reset",
                Death::Silence => "a_silent_death",
                Death::Move => "a_move_to_another_network",
            };
            let (trips, _) = death.allowed();
            let name = format!("recovery::after_{what}_at_{ms}_ms_within_{trips}_round_trips");
            cells.push(Cell::new(name, Needs::Quiet, move |record| recovers(record, death, ms)));
        }
    }
    cells
}

fn recovers(record: &Record, death: Death, ms: u64) -> Result<()> {
    let round_trip = Duration::from_millis(ms);
    let scene = Scene::new(ms, round_trip, None)?;
    let service = Service::start(&scene.home, tick)?;
    let parties = Parties::start(record, scene.hosts(), scene.vps.address, service.port)?;
    let (connect, stream, _) = parties.connect_and_greet()?;
    connect.line("connected directly")?;
    let mut ticks = Ticks { stream, next: 0, partial: Vec::new() };
    let mut times = Vec::new();
    let note = |text: String| record.add(&"test".into(), text);
    for run in 0..RUNS {
        ticks.after(Instant::now() + QUIET_TIME)?;
        let from = match death {
            Death::Reset | Death::Silence => {
                let fate = if death == Death::Reset { Fate::Reset } else { Fate::Silence };
                let killed = scene.kill(fate);
                note(format!("{fate:?} is the fate of {killed} connections"));
                ensure(killed > 0, || "there was no direct connection".to_owned())?;
                Instant::now()
            }
            Death::Move => {
                if run % 2 == 0 {
                    scene.laptop.move_to(scene.elsewhere)?;
                } else {
                    scene.laptop.move_back()?;
                }
                note("the laptop is elsewhere".to_owned());
                Instant::now()
            }
        };
        // What had passed the middle of the internet by then still arrives, a quarter of a round trip later.
        let still = if death == Death::Move { Duration::ZERO } else { round_trip / 4 + 4 * TICK };
        ticks.drain()?;
        let took = ticks.after(from + still)? - from;
        note(format!("first new byte after {} ms", took.as_millis()));
        times.push(took);
    }
    let (trips, beside) = death.allowed();
    let mut allowed = round_trip * trips + beside;
    if death == Death::Silence {
        allowed += silence(record).max(LEAST_SILENCE);
    }
    judge(death, ms, &mut times, allowed)
}

/// The median of the silences after which a link was given up, which follow the round trip and its history.
fn silence(record: &Record) -> Duration {
    let text = record.read();
    let words = text.lines().filter_map(|line| line.split_once("nothing came for ")?.1.split_once('s'));
    let mut seconds: Vec<f64> = words.filter_map(|(number, _)| number.parse().ok()).collect();
    seconds.sort_by(f64::total_cmp);
    // They are told in tenths.
    let told = seconds.get(seconds.len() / 2).map_or(LEAST_SILENCE, |s| Duration::from_secs_f64(*s));
    told + Duration::from_millis(50)
}

fn judge(death: Death, ms: u64, times: &mut [Duration], allowed: Duration) -> Result<()> {
    times.sort();
    let median = times[times.len() / 2];
    let in_ms: Vec<_> = times.iter().map(Duration::as_millis).collect();
    let figures = format!(
        "first new byte after {death:?} at {ms} ms round trip: {} ms, median of {in_ms:?}; allowed {} ms",
        median.as_millis(),
        allowed.as_millis(),
    );
    eprintln!("lab: {figures}");
    ensure(median <= allowed, || figures)
}

/// A service that counts aloud.
fn tick(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(crate::service::GREETING)?;
    for number in 0_u64.. {
        stream.write_all(&number.to_be_bytes())?;
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// The client of [`tick`].
struct Ticks {
    stream: TcpStream,
    next: u64,
    partial: Vec<u8>,
}

impl Ticks {
    /// Reads on, and makes sure that nothing is missing or twice: when the first bytes after that time came.
    fn after(&mut self, time: Instant) -> Result<Instant> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.stream.read(&mut buffer).map_err(|error| failed("reading ticks", error))?;
            let now = Instant::now();
            self.take(&buffer[..length])?;
            if now > time {
                return Ok(now);
            }
        }
    }

    /// Reads what has arrived already.
    fn drain(&mut self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        while let Ok(length) = self.stream.read(&mut buffer) {
            self.take(&buffer[..length])?;
        }
        Ok(self.stream.set_nonblocking(false)?)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        ensure(!bytes.is_empty(), || "the service ended".to_owned())?;
        self.partial.extend_from_slice(bytes);
        while let Some((number, rest)) = self.partial.split_first_chunk() {
            let (number, next) = (u64::from_be_bytes(*number), self.next);
            ensure(number == next, || format!("tick {number} instead of {next}"))?;
            self.next += 1;
            self.partial = rest.to_vec();
        }
        Ok(())
    }
}
