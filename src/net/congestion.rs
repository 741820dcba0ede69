//! Congestion control where there is no congestion: within one machine, and between two in one room.
//!
//! Where the system's choice for TCP is BBR, the kernel paces every connection: it sends in small portions, by a
//! timer, at the rate that it believes the path to have. Over a network that is what one wants. Over the
//! loopback interface, or a few metres of cable, it costs a third of the processor's time for a byte, and
//! nothing is won: there is no queue to be kept short but the other program's. Reno never paces, and every
//! Linux has it and lets everybody use it.
//!
//! Once a kernel has begun to pace a connection it does not stop, so the choice is made before there is one:
//! connections to this machine itself are [unpaced](unpace), and so are all punches, until it shows
//! [how long](Unpaced::follow) the round trip of the one that became the link is. Where the system's choice is
//! another, or a route has one of its own, nothing is changed.

use socket2::SockRef;
use tokio::net::TcpStream;

/// Takes no pacing for connections that this socket makes or accepts from now on, where the system would.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn unpace<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    if socket.tcp_congestion().is_ok_and(|name| paces(&name))
        && let Err(error) = socket.set_tcp_congestion(UNPACED)
    {
        tracing::debug!(%error, "a connection keeps the system's congestion control");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn unpace<'s>(_socket: impl Into<SockRef<'s>>) {}

#[cfg(any(target_os = "linux", target_os = "android"))]
const UNPACED: &[u8] = b"reno";

/// Names come with the zeros behind them.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn paces(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

/// A link that is not paced for now: until it is known whether it is near.
#[derive(Debug, Default)]
pub(super) struct Unpaced {
    settled: bool,
}

impl Unpaced {
    /// A link that is not `near` gets what the system has for it. `None`: not known yet.
    pub(super) fn follow(&mut self, link: &TcpStream, near: Option<bool>) {
        if self.settled || near.is_none() {
            return;
        }
        self.settled = true;
        if near == Some(false) {
            self.restore(link);
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn restore(&self, link: &TcpStream) {
        use socket2::{Domain, Socket, Type};
        let link = SockRef::from(link);
        // What it has by its route, or by the system's own choice of an unpaced one, stays.
        let Some(usual) =
            Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|fresh| fresh.tcp_congestion()).ok()
        else {
            return;
        };
        if paces(&usual)
            && link.tcp_congestion().is_ok_and(|name| name.starts_with(UNPACED))
            && let Err(error) = link.set_tcp_congestion(&usual)
        {
            tracing::debug!(%error, "a link without the system's congestion control");
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn restore(&self, _link: &TcpStream) {}
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    fn control(stream: &TcpStream) -> Vec<u8> {
        SockRef::from(stream).tcp_congestion().unwrap()
    }

    /// Both ends of a connection over the loopback interface.
    async fn connection(unpaced: bool) -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        if unpaced {
            unpace(&listener);
            unpace(&socket);
        }
        let near = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn both_ends_of_an_unpaced_connection_are() {
        let (near, far) = connection(true).await;
        assert!(!paces(&control(&near)) && !paces(&control(&far)));
    }

    #[tokio::test]
    async fn a_link_that_is_not_near_has_what_the_system_has_for_it() {
        let usual = control(&connection(false).await.0);
        let (link, _other) = connection(true).await;
        let mut unpaced = Unpaced::default();
        unpaced.follow(&link, None);
        assert!(!paces(&control(&link)));
        unpaced.follow(&link, Some(false));
        assert_eq!(control(&link), usual);
        let (link, _other) = connection(true).await;
        let (mut unpaced, before) = (Unpaced::default(), control(&link));
        unpaced.follow(&link, Some(true));
        unpaced.follow(&link, Some(false));
        assert_eq!(control(&link), before, "once known, it stays");
    }
}
