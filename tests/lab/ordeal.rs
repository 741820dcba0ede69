//! An ssh session and a checked transfer, and everything that can happen to a network meanwhile.

use std::{
    io::{self, Read, Write},
    process::{ChildStdin, ChildStdout},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Cell, Needs,
    error::{Result, ensure, failed},
    flows::Fate,
    kills::{Pattern, is_long},
    network::Passage,
    parties::{LOCAL_PORT, Parties},
    process::{Process, Record},
    scene::Scene,
    service::connect,
    ssh::{SSH_PORT, Ssh},
};

/// Everybody is this far from everybody else.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Bytes a second of everybody's line, so that the transfer is slow enough to be on its way all the time.
const RATE: u64 = 2_000_000;

/// For so long nothing gets through, where it is not the whole point.
const SHORT_OUTAGE: Duration = Duration::from_secs(5);

/// For so long the cable is pulled.
const PULLED: Duration = Duration::from_secs(30);

/// A network that is back may be found by the next look for it only: attempts are up to a minute apart.
const RECOVERY: Duration = Duration::from_secs(90);

/// Local programs that write into an outage.
const WRITERS: usize = 100;

/// Most memory of `connect` in an outage, beyond what it held before: what is sealed and not acknowledged
/// (`SessionConfig::queue`, 64 MiB), what waits to be sealed (`mux::holding::SEND_BUDGET`, 16 MiB), and what an
/// allocator loses with so much.
const OUTAGE_KB: u64 = 128 * 1024;

pub fn cells() -> Vec<Cell> {
    vec![
        Cell::new("ordeal::ssh_and_a_transfer_outlive_everything", Needs::OpenSsh, everything),
        Cell::new("ordeal::ssh_outlives_a_long_outage_and_memory_is_bounded", Needs::OpenSsh, outage),
    ]
}

fn everything(record: &Record) -> Result<()> {
    let scene = Scene::new(1, ROUND_TRIP, Some(RATE))?;
    let mut parties = Parties::start(record, scene.hosts(), scene.vps.address, SSH_PORT)?;
    let ssh = Ssh::start(record, &scene.home, &parties.home, &parties.laptop)?;
    let tunnel = parties.connect()?;
    tunnel.line("listening on")?;
    let mut typist = Typist::start(&parties, &ssh)?;
    let transfer = Transfer::start(&parties, &ssh)?;
    let mut step = |what: &str,
                    parties: &mut Parties<'_>,
                    act: &mut dyn FnMut(&mut Parties<'_>) -> Result<()>| {
        record.add(&"test".into(), what.to_owned());
        act(parties)?;
        let after = Instant::now();
        typist.types().map_err(|error| failed(format!("typing after {what}"), error))?;
        transfer.goes_on().map_err(|error| failed(format!("the transfer after {what}"), error))?;
        eprintln!("lab: after {what} the echo of a key and the transfer came within {:.1?}", after.elapsed());
        Ok::<(), crate::error::Failure>(())
    };
    let set = |nat, passage| scene.world.network().set_passage(nat, passage);
    step("the beginning", &mut parties, &mut |_| Ok(()))?;
    step("resets", &mut parties, &mut |_| {
        ensure(scene.kill(Fate::Reset) > 0, || "there was no direct connection".to_owned())
    })?;
    step("silence", &mut parties, &mut |_| {
        ensure(scene.kill(Fate::Silence) > 0, || "there was no direct connection".to_owned())
    })?;
    step("the NATs forgot everything", &mut parties, &mut |_| {
        scene.flush();
        Ok(())
    })?;
    step("the home got another address", &mut parties, &mut |_| {
        scene.renumber_home();
        Ok(())
    })?;
    step("the laptop moved", &mut parties, &mut |_| scene.laptop.move_to(scene.elsewhere))?;
    step("the laptop moved back", &mut parties, &mut |_| scene.laptop.move_back())?;
    for (what, passage) in
        [("nothing got into the home", Passage::OnlyOut), ("nothing got out of the home", Passage::OnlyIn)]
    {
        step(what, &mut parties, &mut |_| {
            set(scene.home_nat, passage);
            std::thread::sleep(SHORT_OUTAGE);
            set(scene.home_nat, Passage::Both);
            Ok(())
        })?;
    }
    step("the host program stood still", &mut parties, &mut |parties| {
        parties.expose.signal(Signal::STOP)?;
        std::thread::sleep(SHORT_OUTAGE);
        parties.expose.signal(Signal::CONT)
    })?;
    step("a reset while the server was gone", &mut parties, &mut |parties| {
        parties.stop_server()?;
        scene.kill(Fate::Reset);
        Ok(())
    })?;
    step("the server came back", &mut parties, &mut |parties| parties.start_server())?;
    step("the cable was pulled", &mut parties, &mut |_| {
        set(scene.laptop_nat, Passage::Neither);
        std::thread::sleep(PULLED);
        set(scene.laptop_nat, Passage::Both);
        Ok(())
    })?;
    let bytes = transfer.end()?;
    typist.end()?;
    eprintln!("lab: {:.1} MB went there and back through all of it", bytes as f64 / 1e6);
    Ok(())
}

fn outage(record: &Record) -> Result<()> {
    let length = Duration::from_secs(if is_long() { 600 } else { 40 });
    let scene = Scene::new(2, ROUND_TRIP, None)?;
    let parties = Parties::start(record, scene.hosts(), scene.vps.address, SSH_PORT)?;
    let ssh = Ssh::start(record, &scene.home, &parties.home, &parties.laptop)?;
    let tunnel = parties.connect()?;
    tunnel.line("listening on")?;
    let mut typist = Typist::start(&parties, &ssh)?;
    typist.types()?;
    // These speak no ssh: sshd hears nonsense, once there is a network again.
    let writers = (0..WRITERS).map(|_| connect(&scene.laptop, LOCAL_PORT)).collect::<Result<Vec<_>>>()?;
    let before = tunnel.usage()?;
    scene.world.network().set_passage(scene.laptop_nat, Passage::Neither);
    let start = Instant::now();
    let nonsense = vec![0; 64 * 1024];
    let (mut written, mut most) = (0, before);
    while start.elapsed() < length {
        for mut writer in &writers {
            writer.set_nonblocking(true)?;
            written += writer.write(&nonsense).unwrap_or(0);
        }
        let usage = tunnel.usage()?;
        most.memory_kb = most.memory_kb.max(usage.memory_kb);
        std::thread::sleep(Duration::from_millis(5));
    }
    scene.world.network().set_passage(scene.laptop_nat, Passage::Both);
    let after = Instant::now();
    typist.types()?;
    let grown = most.memory_kb - before.memory_kb;
    eprintln!(
        "lab: an outage of {length:.0?}: ssh goes on {:.1?} after it; {WRITERS} programs wrote {} MB into it, \
         connect took {} MB more, allowed {} MB",
        after.elapsed(),
        written / 1_000_000,
        grown / 1024,
        OUTAGE_KB / 1024
    );
    ensure(grown <= OUTAGE_KB, || format!("{grown} KiB more than before"))?;
    typist.end()
}

/// An ssh session whose other end says back what is typed.
struct Typist {
    process: Process,
    keys: ChildStdin,
    screen: std::sync::mpsc::Receiver<String>,
    lines: u32,
}

impl Typist {
    fn start(parties: &Parties<'_>, ssh: &Ssh) -> Result<Self> {
        let (process, keys, screen) = cat(parties, ssh, "typing")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in io::BufRead::lines(io::BufReader::new(screen)).map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, keys, screen: receiver, lines: 0 })
    }

    /// Types a line and waits until it is on the screen.
    fn types(&mut self) -> Result<()> {
        self.lines += 1;
        let line = format!("line {}", self.lines);
        writeln!(self.keys, "{line}").map_err(|error| failed("typing", error))?;
        self.keys.flush()?;
        let seen = self.screen.recv_timeout(RECOVERY).map_err(|error| failed(&line, error))?;
        ensure(seen == line, || format!("{seen:?} instead of {line:?}"))
    }

    fn end(mut self) -> Result<()> {
        drop(self.keys);
        self.process.ends_with(0, RECOVERY).map(drop)
    }
}

/// An ssh session through which bytes go there and back, all the time.
struct Transfer {
    process: Process,
    stop: Arc<AtomicBool>,
    returned: Arc<AtomicU64>,
    sending: JoinHandle<io::Result<u64>>,
    receiving: JoinHandle<io::Result<u64>>,
}

impl Transfer {
    fn start(parties: &Parties<'_>, ssh: &Ssh) -> Result<Self> {
        let (process, mut there, mut back) = cat(parties, ssh, "transfer")?;
        let (stop, returned) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let stopping = Arc::clone(&stop);
        let sending = std::thread::spawn(move || {
            let (pattern, mut at) = (Pattern::new(), 0);
            while !stopping.load(Ordering::Relaxed) {
                let piece = pattern.at(at, 8 * 1024);
                there.write_all(piece)?;
                at += piece.len() as u64;
            }
            Ok(at)
        });
        let counting = Arc::clone(&returned);
        let receiving = std::thread::spawn(move || {
            let (pattern, mut buffer, mut at) = (Pattern::new(), vec![0; 64 * 1024], 0);
            loop {
                let length = back.read(&mut buffer)?;
                if length == 0 {
                    return Ok(at);
                }
                pattern.check(at, &buffer[..length])?;
                at += length as u64;
                counting.store(at, Ordering::Relaxed);
            }
        });
        Ok(Self { process, stop, returned, sending, receiving })
    }

    /// Waits until something has come back that was not on its way before.
    fn goes_on(&self) -> Result<()> {
        const MORE: u64 = 500_000;
        let (before, deadline) = (self.returned.load(Ordering::Relaxed), Instant::now() + RECOVERY);
        while self.returned.load(Ordering::Relaxed) < before + MORE {
            ensure(!self.receiving.is_finished(), || "it ended".to_owned())?;
            ensure(Instant::now() < deadline, || "it stands still".to_owned())?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it; the bytes that went there and back.
    fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().map_err(|_| "the sender panicked")??;
        let returned = self.receiving.join().map_err(|_| "the receiver panicked")??;
        ensure(sent == returned, || format!("{returned} of {sent} bytes came back"))?;
        self.process.ends_with(0, RECOVERY)?;
        Ok(sent)
    }
}

/// `ssh cat` through the tunnel.
fn cat(parties: &Parties<'_>, ssh: &Ssh, what: &str) -> Result<(Process, ChildStdin, ChildStdout)> {
    let mut client = ssh.client(&parties.laptop, "ssh");
    client.args(["-p", &LOCAL_PORT.to_string(), "localhost", "cat"]);
    let mut process = parties.laptop.start_command(what, &mut client)?;
    let (keys, screen) = process.pipes()?;
    Ok((process, keys, screen))
}
