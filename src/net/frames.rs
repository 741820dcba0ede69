//! Datagrams behind their `u16` length on a TCP connection: what both ends of the fallback do.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::MAX_DATAGRAM;

/// Reads one datagram into `buffer`; `None` at the end of the connection.
///
/// # Errors
/// The connection failed, or the length is more than [`MAX_DATAGRAM`].
pub(crate) async fn read_frame<'b, R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &'b mut [u8; MAX_DATAGRAM],
) -> io::Result<Option<&'b [u8]>> {
    let length = match reader.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let frame = buffer
        .get_mut(..length)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a datagram of {length} bytes")))?;
    reader.read_exact(frame).await?;
    Ok(Some(frame))
}

/// Writes one datagram; one that is longer than [`MAX_DATAGRAM`] is dropped.
///
/// # Errors
/// The connection failed.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, datagram: &[u8]) -> io::Result<()> {
    let Some(length) = u16::try_from(datagram.len()).ok().filter(|l| usize::from(*l) <= MAX_DATAGRAM) else {
        return Ok(());
    };
    // One write for both, or NODELAY would send the length as a packet of its own.
    let mut frame = [0; MAX_DATAGRAM + 2];
    let (head, body) = frame.split_at_mut(2);
    head.copy_from_slice(&length.to_be_bytes());
    if let Some(body) = body.get_mut(..datagram.len()) {
        body.copy_from_slice(datagram);
    }
    writer.write_all(frame.get(..datagram.len() + 2).unwrap_or_default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_keep_their_bounds_on_a_byte_stream() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let sender = tokio::spawn(async move {
            for length in [0usize, 1, 700, MAX_DATAGRAM] {
                write_frame(&mut near, &vec![7; length]).await.unwrap();
            }
        });
        let mut buffer = [0; MAX_DATAGRAM];
        for length in [0usize, 1, 700, MAX_DATAGRAM] {
            assert_eq!(read_frame(&mut far, &mut buffer).await.unwrap(), Some(&vec![7; length][..]));
        }
        assert_eq!(read_frame(&mut far, &mut buffer).await.unwrap(), None);
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn a_length_that_no_datagram_has_ends_the_connection() {
        let mut bytes: &[u8] = &[0xff, 0xff, 1, 2, 3];
        assert!(read_frame(&mut bytes, &mut [0; MAX_DATAGRAM]).await.is_err());
    }
}
