//! Many pieces into a socket with one system call.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Pieces of one `writev`.
const SLICES: usize = 32;

/// Writes as much of the pieces as the socket takes now and drops what it has taken: how many bytes.
///
/// # Errors
/// As [`TcpStream::try_write_vectored`]: [`WouldBlock`](io::ErrorKind::WouldBlock) where it takes nothing.
pub(super) fn try_write(stream: &TcpStream, pieces: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(&*pieces) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    let written = stream.try_write_vectored(slices.get(..count).unwrap_or_default())?;
    let mut left = written;
    while let Some(first) = pieces.front_mut() {
        if first.len() > left {
            first.advance(left);
            break;
        }
        left -= first.len();
        pieces.pop_front();
    }
    Ok(written)
}
