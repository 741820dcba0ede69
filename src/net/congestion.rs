//! Congestion control where there is no congestion: within one machine.
//!
//! Where the system's choice for TCP is BBR, the kernel paces every connection: it sends in small portions, by a
//! timer, at the rate that it believes the path to have. Over a network that is what one wants. Over the loopback
//! interface it costs processor time for every byte, and nothing is won: there is no queue to be kept short but the
//! other program's. Reno never paces, and every Linux has it and lets everybody use it.
//!
//! Once a kernel has begun to pace a connection it does not stop, so the choice is made before there is one. Links keep
//! what the system has for them, near ones too: how near one is shows only when it is there.

use socket2::SockRef;

/// Takes no pacing for connections that this socket makes or accepts from now on, where the system would.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn unpace<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    if socket.tcp_congestion().is_ok_and(|name| paces(&name))
        && let Err(error) = socket.set_tcp_congestion(b"reno")
    {
        tracing::debug!(%error, "a connection keeps the system's congestion control");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn unpace<'s>(_socket: impl Into<SockRef<'s>>) {}

/// Names come with the zeros behind them.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn paces(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn both_ends_of_an_unpaced_connection_are() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        unpace(&listener);
        unpace(&socket);
        let near = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        for stream in [near, far] {
            assert!(!paces(&SockRef::from(&stream).tcp_congestion().unwrap()));
        }
    }
}
