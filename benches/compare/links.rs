//! What is measured over lines with a rate, a delay and a queue: the agents run in two namespaces.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Setting,
    error::Result,
    link::Line,
    load::{Direction, Service, Transfer, round_trips},
    peers::{Ground, Kind, Tunnel},
    table::{Table, figure, percentile, ratio},
    wire::Wire,
};

/// Congestion controls: what most machines have, and what some have instead.
const CONTROLS: [&str; 2] = ["cubic", "bbr"];

/// Bytes a second.
const SLOW: u64 = 50_000_000 / 8;
const FAST: u64 = 1_000_000_000 / 8;

/// Beside an upload, round trips are taken over so many connections at once: they are slow then, and a 99th
/// percentile wants enough of them.
const ASKERS: usize = 4;

/// An upload that fills a home's line, and a byte there and back beside it.
pub fn slow(setting: &Setting, kinds: &[Kind]) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "50 Mbit/s, 40 ms there and back, a queue that drops at its tail: round trips of one byte through the tunnel, \
         ms, alone and beside an upload through the same tunnel that fills the line, and what the upload gets of \
         the rate (headers of TCP/IP alone take 3.5 %).",
        &[
            "queue",
            "control",
            "path",
            "idle p50",
            "idle p99",
            "beside p50",
            "× idle",
            "beside p99",
            "× idle",
            "rate used",
        ],
    );
    for control in CONTROLS {
        for queue in [250_000, 1_000_000] {
            let line = Line { delay: Duration::from_millis(20), rate: Some(SLOW), queue, ..Line::default() };
            for kind in kinds {
                let wire = Wire::new(line)?;
                wire.congestion_control(control)?;
                let run = beside_upload(setting, wire.ground(), *kind);
                let Some((mut idle, mut busy, speed)) = setting.note(kind.name, run) else { continue };
                let of = |times: &mut Vec<Duration>, share| percentile(times, share) / 1e3;
                let (idle50, idle99) = (of(&mut idle, 0.5), of(&mut idle, 0.99));
                let (busy50, busy99) = (of(&mut busy, 0.5), of(&mut busy, 0.99));
                let used = format!("{:.0} %", speed / SLOW as f64 * 100.0);
                setting.tell(
                    0,
                    kind.name,
                    format!("{control}, {queue}: {busy50:.0} and {busy99:.0} ms, {used}"),
                );
                table.row([
                    format!("{} kB", queue / 1000),
                    control.to_owned(),
                    kind.name.to_owned(),
                    figure(idle50),
                    figure(idle99),
                    figure(busy50),
                    ratio(busy50, idle50),
                    figure(busy99),
                    ratio(busy99, idle99),
                    used,
                ]);
            }
        }
    }
    Ok(vec![table])
}

/// Round trips alone, round trips beside an upload, and the upload's bytes a second.
fn beside_upload(
    setting: &Setting,
    ground: Ground<'_>,
    kind: Kind,
) -> Result<(Vec<Duration>, Vec<Duration>, f64)> {
    let service = ground.far.within(|| Service::start(ground.far.address))??;
    let tunnel = kind.start(ground, &service)?;
    let idle = askers(setting, ground, &service, &tunnel, 1)?;
    let upload = ground.near.within(|| Transfer::start(&service, tunnel.entrance, Direction::Up, 0))??;
    // Until the queue is full and whatever adapts has adapted.
    sleep(setting.settle);
    let (start, before) = (Instant::now(), upload.flow.arrived());
    let busy = askers(setting, ground, &service, &tunnel, ASKERS)?;
    let speed = (upload.flow.arrived() - before) as f64 / start.elapsed().as_secs_f64();
    // What waits in the queues is of no interest any more.
    drop(tunnel);
    let _ = Transfer::end([upload]);
    Ok((idle, busy, speed))
}

/// Round trips over several connections at once.
fn askers(
    setting: &Setting,
    ground: Ground<'_>,
    service: &Service,
    tunnel: &Tunnel,
    number: usize,
) -> Result<Vec<Duration>> {
    let (entrance, span) = (tunnel.entrance, setting.look);
    let all = ground.near.within(|| {
        std::thread::scope(|scope| {
            let ask = || round_trips(service, entrance, span);
            let askers: Vec<_> = (0..number).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().flat_map(|asker| asker.join().ok()).collect::<Result<Vec<_>>>()
        })
    })?;
    Ok(all?.into_iter().flatten().collect())
}

/// A line that is long and fat.
pub fn fat(setting: &Setting, kinds: &[Kind]) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "1 Gbit/s, 100 ms there and back, a queue of 12.5 MB: one upload and one download, MB/s, after the start; *of \
         plain* is the share of what one TCP connection gets without a tunnel. \"64 MB\" is where the kernels at both \
         ends may use so much for a connection (`tcp_rmem`, `tcp_wmem`), otherwise it is as on this machine.",
        &["buffers", "control", "path", "up", "of plain", "down", "of plain"],
    );
    let line =
        Line { delay: Duration::from_millis(50), rate: Some(FAST), queue: FAST / 10, ..Line::default() };
    for control in CONTROLS {
        for buffers in [None, Some("4096 131072 67108864")] {
            let mut plain = None;
            for kind in kinds {
                let wire = Wire::new(line)?;
                wire.congestion_control(control)?;
                for file in ["net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"] {
                    buffers.map_or(Ok(()), |sizes| wire.sysctl(file, sizes))?;
                }
                let run = long_transfers(setting, wire.ground(), *kind);
                let Some(speeds) = setting.note(kind.name, run) else { continue };
                let words =
                    format!("{control}, {buffers:?}: {} and {} MB/s", figure(speeds[0]), figure(speeds[1]));
                setting.tell(0, kind.name, words);
                // The first kind is no tunnel at all.
                let plain = *plain.get_or_insert(speeds);
                let part = |way: usize| ratio(speeds[way], plain[way]);
                table.row([
                    buffers.map_or("as here", |_| "64 MB").to_owned(),
                    control.to_owned(),
                    kind.name.to_owned(),
                    figure(speeds[0]),
                    part(0),
                    figure(speeds[1]),
                    part(1),
                ]);
            }
        }
    }
    Ok(vec![table])
}

/// MB/s up and down, one after the other.
fn long_transfers(setting: &Setting, ground: Ground<'_>, kind: Kind) -> Result<[f64; 2]> {
    let mut speeds = [0.0; 2];
    for (way, direction) in [Direction::Up, Direction::Down].into_iter().enumerate() {
        let service = ground.far.within(|| Service::start(ground.far.address))??;
        let tunnel = kind.start(ground, &service)?;
        let transfer = ground.near.within(|| Transfer::start(&service, tunnel.entrance, direction, 0))??;
        sleep(setting.settle);
        let (start, before) = (Instant::now(), transfer.flow.arrived());
        sleep(setting.look);
        speeds[way] = (transfer.flow.arrived() - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        drop(tunnel);
        let _ = Transfer::end([transfer]);
    }
    Ok(speeds)
}
