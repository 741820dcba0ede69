//! What is measured on loopback.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Setting,
    error::Result,
    load::{Direction, Service, Transfer, connections, hold, round_trips},
    peers::{DIRECT, Ground, Kind, OURS, Tunnel},
    table::{Runs, Table, figure, percentile, ratio},
};

/// Transfers run so long before they are measured.
const WARM: Duration = Duration::from_millis(300);

/// What a transfer was like.
struct Moved {
    /// MB/s of each stream.
    streams: Vec<f64>,
    /// Processor time of both agents for a byte, in ns.
    cost: f64,
}

impl Moved {
    fn sum(&self) -> f64 {
        self.streams.iter().sum()
    }
}

/// Runs transfers at once and looks at them for `span`.
fn transfer(
    service: &Service,
    tunnel: &Tunnel,
    direction: Direction,
    streams: usize,
    span: Duration,
) -> Result<Moved> {
    let transfers: Vec<_> = (0..streams)
        .map(|_| Transfer::start(service, tunnel.entrance, direction, streams - 1))
        .collect::<Result<_>>()?;
    sleep(WARM);
    let (start, used) = (Instant::now(), tunnel.processor_time());
    let before: Vec<_> = transfers.iter().map(|transfer| transfer.flow.arrived()).collect();
    sleep(span);
    let after: Vec<_> = transfers.iter().map(|transfer| transfer.flow.arrived()).collect();
    let (took, used) = (start.elapsed(), tunnel.processor_time() - used);
    Transfer::end(transfers)?;
    let moved: Vec<_> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    Ok(Moved {
        streams: moved.iter().map(|&bytes| bytes as f64 / took.as_secs_f64() / 1e6).collect(),
        cost: used.as_nanos() as f64 / moved.iter().sum::<u64>() as f64,
    })
}

const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];

/// One stream, each way, and what it costs.
pub fn throughput(setting: &Setting, service: &Service, tunnels: &[Tunnel]) -> Result<Vec<Table>> {
    let mut speeds = vec![[Runs::default(), Runs::default()]; tunnels.len()];
    let mut costs = vec![[Runs::default(), Runs::default()]; tunnels.len()];
    for round in 0..setting.rounds {
        for (index, tunnel) in tunnels.iter().enumerate() {
            for (way, direction) in DIRECTIONS.into_iter().enumerate() {
                let run = transfer(service, tunnel, direction, 1, setting.span);
                let Some(moved) = setting.take(tunnel, run) else { continue };
                setting.tell(round, tunnel.kind.name, format!("{direction:?} {} MB/s", figure(moved.sum())));
                speeds[index][way].add(moved.sum());
                costs[index][way].add(moved.cost);
            }
        }
    }
    let ours = tunnels.iter().position(|tunnel| tunnel.kind.name == OURS);
    let ours_is = |of: &[[Runs; 2]], index: usize, way: usize| {
        ours.map_or(String::new(), |ours| ratio(of[ours][way].median(), of[index][way].median()))
    };
    let mut speed = Table::new(
        format!(
            "One stream: MB/s (10⁶ bytes a second), median (least–most) of {} alternating runs of {:?}; \
             *ratio* is how many times as fast punchtunnel was.",
            setting.rounds, setting.span
        ),
        &["path", "up", "ratio", "down", "ratio", ""],
    );
    let mut cost = Table::new(
        "Processor time for a byte: user and system of both agents in the same runs, ns; *ratio* is \
         punchtunnel's share of it.",
        &["path", "up", "ratio", "down", "ratio"],
    );
    for (index, tunnel) in tunnels.iter().enumerate() {
        let name = tunnel.kind.name;
        let mut row = vec![name.to_owned()];
        for way in 0..2 {
            row.extend([speeds[index][way].spread(), ours_is(&speeds, index, way)]);
        }
        row.push(tunnel.kind.what.to_owned());
        speed.row(row);
        if name != DIRECT {
            let mut row = vec![name.to_owned()];
            for way in 0..2 {
                row.extend([costs[index][way].spread(), ours_is(&costs, index, way)]);
            }
            cost.row(row);
        }
    }
    Ok(vec![speed, cost])
}

/// Many streams: their sum, and what each gets.
pub fn streams(setting: &Setting, service: &Service, tunnels: &[Tunnel]) -> Result<Vec<Table>> {
    const COUNTS: [usize; 3] = [1, 16, 256];
    let mut sums = vec![[const { Runs::new() }; 3]; tunnels.len()];
    let mut shares = vec![[const { (Runs::new(), Runs::new()) }; 3]; tunnels.len()];
    for round in 0..setting.rounds.min(3) {
        for (index, tunnel) in tunnels.iter().enumerate() {
            for (column, count) in COUNTS.into_iter().enumerate() {
                // A share is a matter of some turns for each stream.
                let span = setting.span * if count > 16 { 2 } else { 1 };
                let run = transfer(service, tunnel, Direction::Up, count, span);
                let Some(moved) = setting.take(tunnel, run) else { continue };
                setting.tell(
                    round,
                    tunnel.kind.name,
                    format!("{count} streams, {} MB/s", figure(moved.sum())),
                );
                let mean = moved.sum() / count as f64;
                let least = moved.streams.iter().copied().fold(f64::INFINITY, f64::min) / mean;
                let most = moved.streams.iter().copied().fold(0.0, f64::max) / mean;
                sums[index][column].add(moved.sum());
                shares[index][column].0.add(least);
                shares[index][column].1.add(most);
            }
        }
    }
    let mut table = Table::new(
        "1, 16 and 256 streams up at once: the sum in MB/s, median (least–most), and what the least and the \
         most favoured stream got of the mean, over all runs.",
        &["path", "1", "16", "of one", "256", "of one", "shares of 16", "shares of 256"],
    );
    for (index, tunnel) in tunnels.iter().enumerate() {
        let runs = &sums[index];
        let share = |(least, most): &(Runs, Runs)| format!("{}–{}", figure(least.min()), figure(most.max()));
        table.row([
            tunnel.kind.name.to_owned(),
            runs[0].spread(),
            runs[1].spread(),
            ratio(runs[1].median(), runs[0].median()),
            runs[2].spread(),
            ratio(runs[2].median(), runs[0].median()),
            share(&shares[index][1]),
            share(&shares[index][2]),
        ]);
    }
    Ok(vec![table])
}

/// Round trips of one byte: alone, and beside a transfer each way.
pub fn latency(setting: &Setting, service: &Service, tunnels: &[Tunnel]) -> Result<Vec<Table>> {
    let mut runs = vec![[const { Runs::new() }; 6]; tunnels.len()];
    for round in 0..setting.rounds {
        for (index, tunnel) in tunnels.iter().enumerate() {
            let mut told = Vec::new();
            for (which, beside) in [None, Some(Direction::Up), Some(Direction::Down)].into_iter().enumerate()
            {
                let run = beside_transfer(setting, service, tunnel, beside);
                let Some(mut times) = setting.take(tunnel, run) else { continue };
                for (half, share) in [0.5, 0.99].into_iter().enumerate() {
                    let time = percentile(&mut times, share);
                    runs[index][2 * which + half].add(time);
                    told.push(figure(time));
                }
            }
            setting.tell(round, tunnel.kind.name, format!("round trips {} µs", told.join(" ")));
        }
    }
    let mut table = Table::new(
        format!(
            "Round trip of one byte, µs: median (least–most) of {} alternating runs of {:?}, alone and beside a \
             transfer through the same tunnel; *ratio* is punchtunnel's share of it.",
            setting.rounds, setting.span
        ),
        &[
            "path",
            "idle p50",
            "ratio",
            "idle p99",
            "p50 beside up",
            "p99 beside up",
            "ratio",
            "p50 beside down",
            "p99 beside down",
            "ratio",
        ],
    );
    let ours = tunnels.iter().position(|tunnel| tunnel.kind.name == OURS);
    for (index, tunnel) in tunnels.iter().enumerate() {
        let mut row = vec![tunnel.kind.name.to_owned()];
        for (column, figures) in runs[index].iter().enumerate() {
            row.push(figures.spread());
            if [0, 3, 5].contains(&column) {
                let part = |ours: usize| ratio(runs[ours][column].median(), figures.median());
                row.push(ours.map_or(String::new(), part));
            }
        }
        table.row(row);
    }
    Ok(vec![table])
}

/// How long a byte took there and back, beside a transfer if there is to be one.
fn beside_transfer(
    setting: &Setting,
    service: &Service,
    tunnel: &Tunnel,
    beside: Option<Direction>,
) -> Result<Vec<Duration>> {
    let transfer = beside.map(|way| Transfer::start(service, tunnel.entrance, way, 0)).transpose()?;
    if transfer.is_some() {
        sleep(WARM);
    }
    let times = round_trips(service, tunnel.entrance, setting.span);
    Transfer::end(transfer)?;
    times
}

/// Connections that are opened, used once and closed.
pub fn rate(setting: &Setting, service: &Service, tunnels: &[Tunnel]) -> Result<Vec<Table>> {
    const AT_ONCE: usize = 32;
    let mut runs = vec![Runs::default(); tunnels.len()];
    let mut costs = vec![Runs::default(); tunnels.len()];
    for round in 0..setting.rounds {
        for (index, tunnel) in tunnels.iter().enumerate() {
            let (start, used) = (Instant::now(), tunnel.processor_time());
            let run = connections(service, tunnel.entrance, AT_ONCE, setting.span);
            let Some(done) = setting.take(tunnel, run) else { continue };
            let a_second = done as f64 / start.elapsed().as_secs_f64();
            setting.tell(round, tunnel.kind.name, format!("{} connections a second", figure(a_second)));
            runs[index].add(a_second);
            costs[index].add((tunnel.processor_time() - used).as_micros() as f64 / done as f64);
        }
    }
    let mut table = Table::new(
        format!(
            "Connections that are opened, carry a byte there and back and are closed, {AT_ONCE} at a time: how \
             many a second, and the processor time of both agents for each, µs."
        ),
        &["path", "a second", "ratio", "µs each"],
    );
    let ours = tunnels.iter().position(|tunnel| tunnel.kind.name == OURS);
    for (index, tunnel) in tunnels.iter().enumerate() {
        let times = ours.map_or(String::new(), |ours| ratio(runs[ours].median(), runs[index].median()));
        let cost = if tunnel.kind.name == DIRECT { String::new() } else { costs[index].spread() };
        table.row([tunnel.kind.name.to_owned(), runs[index].spread(), times, cost]);
    }
    Ok(vec![table])
}

/// What the agents hold: idle, with many open streams, and beside a reader that does not read.
pub fn memory(setting: &Setting, service: &Service, kinds: &[Kind]) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "Resident memory of the agents, MB, near the program / near the service: of a tunnel that was just built, \
         with so many open idle streams, and after a second in which one stream was written into and not read. \
         Beside that stream four others went up: their MB/s without it and with it.",
        &["path", "idle", "streams", "with them", "kB each", "with a slow reader", "four alone", "beside it"],
    );
    for kind in kinds.iter().filter(|kind| kind.name != DIRECT) {
        let tunnel = kind.start(Ground::loopback(), service)?;
        // What the start took is given back by then, or never.
        sleep(Duration::from_secs(1));
        let idle = tunnel.resident();
        let (held, ended) = hold(service, tunnel.entrance, setting.held.min(kind.streams));
        let open = tunnel.resident();
        setting.tell(0, kind.name, format!("{} MB, {} streams, {} MB", both(idle), held.len(), both(open)));
        let each = |idle: u64, open: u64| open.saturating_sub(idle) as f64 / 1e3 / held.len().max(1) as f64;
        let each = (each(idle.0, open.0), each(idle.1, open.1));
        let count = held.len().to_string() + &ended.map_or(String::new(), |why| format!(", then: {why}"));
        drop((held, tunnel));
        service.let_go();

        let tunnel = kind.start(Ground::loopback(), service)?;
        let alone = transfer(service, &tunnel, Direction::Up, 4, setting.span)?.sum();
        let stuck = Transfer::stuck(service, tunnel.entrance)?;
        sleep(Duration::from_secs(1));
        let slow = tunnel.resident();
        let beside = transfer(service, &tunnel, Direction::Up, 4, setting.span)?.sum();
        Transfer::end([stuck])?;
        setting.tell(0, kind.name, format!("{} and {} MB/s", figure(alone), figure(beside)));
        table.row([
            kind.name.to_owned(),
            both(idle),
            count,
            both(open),
            format!("{} / {}", figure(each.0), figure(each.1)),
            both(slow),
            figure(alone),
            figure(beside),
        ]);
    }
    Ok(vec![table])
}

/// The memory of two agents.
fn both((near, far): (u64, u64)) -> String {
    format!("{} / {}", figure(near as f64 / 1e6), figure(far as f64 / 1e6))
}
