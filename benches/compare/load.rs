//! The load: a service at the far end of every tunnel and the programs that use it, all in this process, with
//! blocking sockets and a thread for each. The same for every tunnel that is compared.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use crate::error::{Result, failed};

/// What sources write and sinks read at once.
const BLOCK: usize = 256 * 1024;

/// The same where many streams run at once: their buffers must not fight for the processor's cache.
const SMALL_BLOCK: usize = 64 * 1024;

/// More transfers than this are many.
const MANY: usize = 8;

/// Threads do nothing but copy.
const STACK: usize = 64 * 1024;

/// A tunnel that moves nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection begins with one of these and eight bytes that name its [`Flow`].
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Read everything.
    Sink = 1,
    /// Write until told to stop.
    Source = 2,
    /// Write back what comes.
    Echo = 3,
    /// Write one byte and keep the connection.
    Hold = 4,
    /// Read nothing until told to stop.
    Stuck = 5,
}

/// What both ends of a connection know of it.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes that have arrived at the end that reads.
    arrived: AtomicU64,
    stop: AtomicBool,
}

impl Flow {
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    flows: Mutex<BTreeMap<u64, Arc<Flow>>>,
    held: Mutex<Vec<TcpStream>>,
    next: AtomicU64,
}

impl Service {
    /// Listens at a free port of this address, as long as the program runs.
    pub fn start(at: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((at, 0))?;
        let service = Self { address: listener.local_addr()?, shared: Arc::default() };
        let shared = service.shared.clone();
        spawn(move || {
            for stream in listener.incoming().map_while(|stream| stream.ok()) {
                let shared = shared.clone();
                // A connection that ends early has been noticed at its other end.
                spawn(move || drop(shared.serve(stream)))?;
            }
            Ok::<_, io::Error>(())
        })?;
        Ok(service)
    }

    /// Opens a connection to the service by way of `at`, and says what it is for.
    pub fn open(&self, at: SocketAddr, order: Order) -> io::Result<(TcpStream, Arc<Flow>)> {
        let flow = Arc::new(Flow::default());
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.flows).insert(number, flow.clone());
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut header = [order as u8; 9];
        header[1..].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&header)?;
        Ok((stream, flow))
    }

    /// Closes the connections that were only kept.
    pub fn let_go(&self) {
        lock(&self.shared.held).clear();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut header = [0; 9];
        stream.read_exact(&mut header)?;
        let [order, number @ ..] = header;
        let flow = lock(&self.flows).remove(&u64::from_be_bytes(number)).ok_or(io::ErrorKind::NotFound)?;
        match order {
            1 => read_all(&mut stream, &flow, BLOCK),
            2 => write_until_stopped(&mut stream, &flow, BLOCK),
            3 => {
                let mut bytes = [0; 1024];
                loop {
                    match stream.read(&mut bytes)? {
                        0 => return Ok(()),
                        length => stream.write_all(&bytes[..length])?,
                    }
                }
            }
            4 => {
                stream.write_all(&[4])?;
                lock(&self.held).push(stream);
                Ok(())
            }
            _ => {
                while !flow.stopped() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                read_all(&mut stream, &flow, BLOCK)
            }
        }
    }
}

/// Which way a transfer goes: up is from the program at the tunnel to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// A transfer that goes on until it is ended.
#[derive(Debug)]
pub struct Transfer {
    pub flow: Arc<Flow>,
    thread: JoinHandle<io::Result<()>>,
}

impl Transfer {
    /// Starts one; `beside` is how many others there will be.
    pub fn start(service: &Service, at: SocketAddr, direction: Direction, beside: usize) -> Result<Self> {
        let order = if direction == Direction::Up { Order::Sink } else { Order::Source };
        let block = if beside > MANY { SMALL_BLOCK } else { BLOCK };
        Self::with(service, at, order, block)
    }

    /// One that is written into and that nobody reads.
    pub fn stuck(service: &Service, at: SocketAddr) -> Result<Self> {
        Self::with(service, at, Order::Stuck, BLOCK)
    }

    fn with(service: &Service, at: SocketAddr, order: Order, block: usize) -> Result<Self> {
        let (mut stream, flow) = service.open(at, order)?;
        if matches!(order, Order::Stuck) {
            stream.set_write_timeout(None)?;
        }
        let shared = flow.clone();
        let thread = spawn(move || match order {
            Order::Source => read_all(&mut stream, &shared, block),
            _ => {
                write_until_stopped(&mut stream, &shared, block)?;
                // The service closes when it has read everything.
                stream.read_to_end(&mut Vec::new()).map(drop)
            }
        })?;
        Ok(Self { flow, thread })
    }

    /// Lets the sources stop, and waits until everything has arrived.
    pub fn end(transfers: impl IntoIterator<Item = Self>) -> Result<()> {
        let transfers: Vec<Self> = transfers.into_iter().collect();
        transfers.iter().for_each(|transfer| transfer.flow.stop());
        for transfer in transfers {
            let ended = transfer.thread.join().map_err(|_| failed("a transfer", "it panicked"))?;
            ended.map_err(|error| failed("a transfer", error))?;
        }
        Ok(())
    }
}

/// Reads to the end.
fn read_all(stream: &mut TcpStream, flow: &Flow, block: usize) -> io::Result<()> {
    let mut buffer = vec![0; block];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => flow.arrived.fetch_add(length as u64, Ordering::Relaxed),
        };
    }
}

fn write_until_stopped(stream: &mut TcpStream, flow: &Flow, block: usize) -> io::Result<()> {
    static BYTES: [u8; BLOCK] = [b'x'; BLOCK];
    while !flow.stopped() {
        stream.write_all(&BYTES[..block])?;
    }
    stream.shutdown(Shutdown::Write)
}

/// One byte there and back again, over one connection, for so long; how long each took.
pub fn round_trips(service: &Service, at: SocketAddr, span: Duration) -> Result<Vec<Duration>> {
    let (mut stream, _) = service.open(at, Order::Echo)?;
    let (mut times, start) = (Vec::new(), Instant::now());
    // The first one opens the way; it is another measurement.
    for first in std::iter::once(true).chain(std::iter::repeat(false)) {
        let before = Instant::now();
        stream.write_all(b"?").and_then(|()| stream.read_exact(&mut [0])).map_err(|e| failed("a byte", e))?;
        if !first {
            times.push(before.elapsed());
        }
        if start.elapsed() >= span {
            break;
        }
    }
    Ok(times)
}

/// Opens connections, exchanges a byte over each and closes them, so many at a time, for so long; how many
/// there were.
pub fn connections(service: &Service, at: SocketAddr, at_once: usize, span: Duration) -> Result<u64> {
    let start = Instant::now();
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let service = service.clone();
            spawn(move || {
                let mut done = 0;
                while start.elapsed() < span {
                    let (mut stream, _) = service.open(at, Order::Echo)?;
                    stream.write_all(b"?")?;
                    stream.read_exact(&mut [0])?;
                    stream.shutdown(Shutdown::Write)?;
                    stream.read_to_end(&mut Vec::new())?;
                    done += 1;
                }
                Ok::<_, io::Error>(done)
            })
        })
        .collect::<io::Result<_>>()?;
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| failed("a connection", "it panicked"))??;
    }
    Ok(done)
}

/// Opens connections and keeps them, as many as there may be up to `wanted`.
pub fn hold(service: &Service, at: SocketAddr, wanted: usize) -> (Vec<TcpStream>, Option<io::Error>) {
    let mut held = Vec::new();
    while held.len() < wanted {
        let opened = service.open(at, Order::Hold).and_then(|(mut stream, _)| {
            stream.read_exact(&mut [0])?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => held.push(stream),
            Err(error) => return (held, Some(error)),
        }
    }
    (held, None)
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().stack_size(STACK).spawn(run)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
