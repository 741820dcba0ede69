//! Reading without a second call that only tells that there is no more.

use std::io;

use tokio::{io::Interest, net::TcpStream};

/// Reads with `read` up to `room` bytes. What is less has emptied the socket, so the next
/// [`readable`](TcpStream::readable) waits for the kernel's word that something came, and nobody asks in vain
/// before. (Tokio's own `AsyncRead` does the same. It holds for epoll and kqueue; the end of a connection is
/// remembered apart.)
///
/// # Errors
/// Those of `read`.
pub(super) fn try_read(
    stream: &TcpStream,
    room: usize,
    read: impl FnOnce(&TcpStream) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut result = Err(io::ErrorKind::WouldBlock.into());
    // What is forgotten is the readiness from before the read: what comes in between is told anew.
    let _ = stream.try_io(Interest::READABLE, || {
        result = read(stream);
        match &result {
            Ok(count) if (1..room).contains(count) && cfg!(unix) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Waits until there is something, and reads at most `room` bytes.
    async fn read(stream: &TcpStream, room: usize) -> usize {
        let mut buffer = vec![0; room];
        loop {
            stream.readable().await.unwrap();
            match try_read(stream, room, |stream| stream.try_read(&mut buffer)) {
                Ok(count) => return count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[tokio::test]
    async fn everything_is_read_that_comes_late_in_pieces_or_with_the_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let reader = listener.accept().await.unwrap().0;
        for room in [3, 4, 5, 100] {
            writer.write_all(b"abcd").await.unwrap();
            let mut left = 4;
            while left > 0 {
                left -= read(&reader, room).await;
            }
        }
        let late = async {
            tokio::task::yield_now().await;
            writer.write_all(b"e").await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (count, ()) = tokio::join!(read(&reader, 100), late);
        assert_eq!(count, 1);
        assert_eq!(read(&reader, 100).await, 0, "the end came with the last byte, or after it");
    }

    #[tokio::test]
    async fn a_socket_that_was_emptied_is_not_asked_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let reader = listener.accept().await.unwrap().0;
        writer.write_all(b"abcd").await.unwrap();
        assert_eq!(read(&reader, 4).await, 4, "as much as there was room for: there may be more");
        assert!(reader.readable().await.is_ok());
        assert!(reader.try_read(&mut [0; 4]).is_err());
        writer.write_all(b"abcd").await.unwrap();
        assert_eq!(read(&reader, 5).await, 4);
        let asked = try_read(&reader, 5, |_| panic!("the socket was empty"));
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
