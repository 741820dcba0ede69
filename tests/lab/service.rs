//! The services that hosts expose, and the clients that use them, as threads of the lab.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
};

use socket2::SockRef;

use crate::{
    error::{Result, ensure, failed},
    process::PATIENCE,
    world::Host,
};

/// What [`Service::echo`] says first, as an ssh server would.
pub const GREETING: &[u8] = b"welcome\n";

/// A TCP service on a host's loopback.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    /// Its port.
    pub port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts one that greets, then sends back what it gets, and ends when its client has ended.
    pub fn echo(host: &Host) -> Result<Self> {
        Self::start(host, echo)
    }

    /// Starts one that does this with every connection.
    pub fn start(host: &Host, serve: fn(TcpStream) -> io::Result<()>) -> Result<Self> {
        let listener = host.namespace.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        let port = listener.local_addr()?.port();
        let accepting = listener.try_clone()?;
        let thread = std::thread::spawn(move || {
            for stream in accepting.incoming().map_while(io::Result::ok) {
                // A client that goes away mid-way is the client's affair.
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { listener, port, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Makes `accept` return; the listener was connected to nobody.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GREETING)?;
    let mut from = stream.try_clone()?;
    io::copy(&mut from, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

/// Connects to a port of a host's own loopback.
pub fn connect(host: &Host, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = host.namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let stream = stream.map_err(|error| failed(format!("{} connecting to {to}", host.name), error))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads the greeting.
pub fn greeted(stream: &mut TcpStream) -> Result<()> {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).map_err(|error| failed("reading the greeting", error))?;
    ensure(greeting == GREETING, || format!("greeted by {greeting:?}"))
}

/// Sends `length` bytes, ends, and reads them back until the other side ends: each must be the one that
/// was sent. `on_the_way` is called once, when half of them have come back.
pub fn converse(stream: TcpStream, length: usize, mut on_the_way: impl FnMut() -> Result<()>) -> Result<()> {
    let mut sender = stream.try_clone()?;
    let sending = std::thread::spawn(move || -> io::Result<()> {
        let mut at = 0;
        let mut block = vec![0; 64 * 1024];
        while at < length {
            let size = block.len().min(length - at);
            for (offset, byte) in block[..size].iter_mut().enumerate() {
                *byte = byte_at(at + offset);
            }
            sender.write_all(&block[..size])?;
            at += size;
        }
        sender.shutdown(Shutdown::Write)
    });
    let mut receiver = stream;
    let (mut buffer, mut at, mut half) = (vec![0; 64 * 1024], 0, false);
    loop {
        let size = receiver.read(&mut buffer).map_err(|error| failed(format!("reading byte {at}"), error))?;
        if size == 0 {
            break;
        }
        if let Some(wrong) = (0..size).find(|&offset| buffer[offset] != byte_at(at + offset)) {
            return Err(failed(format!("byte {}", at + wrong), "is not the one that was sent"));
        }
        at += size;
        if !half && at >= length / 2 {
            half = true;
            on_the_way()?;
        }
    }
    sending.join().map_err(|_| "the sender panicked")?.map_err(|error| failed("sending", error))?;
    ensure(at == length, || format!("{at} of {length} bytes came back"))
}

/// A byte that depends on its place in a way that no repetition or exchange of blocks keeps.
fn byte_at(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}
