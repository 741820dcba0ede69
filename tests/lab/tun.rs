//! TUN devices: the wire between a namespace's kernel and the lab's router.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use rustix::{
    fs::OFlags,
    ioctl::{Setter, ioctl, opcode},
};

use crate::{
    error::{Result, failed},
    namespace::Namespace,
};

/// Packets are IP packets of at most this many bytes: the MTU of Ethernet.
pub const MTU: usize = 1500;

/// The kernel's default of 500 drops a third of a sweep of 1024 SYNs, and the lab then measures itself.
const QUEUE_PACKETS: u32 = 10_000;

/// The file descriptor's end of a TUN device.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Creates the device `name` inside a namespace, up and without addresses.
    pub fn new(namespace: &Namespace, name: &str) -> Result<Self> {
        let tun = namespace.within(|| open(name))?.map_err(|error| failed("creating a TUN device", error))?;
        // A checksum that was never computed cannot be told from a wrong one: no offloads (the default).
        namespace.ip(&format!("link set {name} mtu {MTU} txqueuelen {QUEUE_PACKETS} up"))?;
        Ok(tun)
    }

    /// Takes the next packet that the kernel sent, if there is one; its length.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.file, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands the kernel a packet, as if it came over the wire.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        Ok(rustix::io::write(&self.file, packet).map(drop)?)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `struct ifreq` as TUNSETIFF reads it: a name, flags, and a union that is not used here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// `IFF_TUN | IFF_NO_PI` (linux/if_tun.h): IP packets, nothing before them.
const TUN_NO_HEADER: i16 = 0x0001 | 0x1000;

#[allow(unsafe_code)]
fn open(name: &str) -> io::Result<Tun> {
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: TUN_NO_HEADER, rest: [0; 22] };
    let length = name.len().min(15); // The last byte stays 0.
    request.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq` (40 bytes on 64-bit machines, never more),
    // reads and writes within it, and keeps no reference to it.
    unsafe { ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }?;
    Ok(Tun { file })
}
