//! Word from the kernel that the network of this machine may have changed.
//!
//! Linux tells of every link, address and route by rtnetlink (rtnetlink(7)). What the message says is not
//! read: it only makes [`Watch`](super::Watch) look, which knows what counts. Other systems have their own
//! ways (a routing socket, `NotifyIpInterfaceChange`), which have room here; until then they are looked at
//! once in a while, as Linux is too where it refuses the socket.

use std::time::{Duration, Instant};

use crate::net::clock;

/// A network that comes up makes a dozen notices at once, and a machine that is a router makes them without
/// end: so many looks a second are enough for everybody, and cost nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// Tells when to look.
pub(crate) struct Notices {
    #[cfg(target_os = "linux")]
    socket: Option<linux::Socket>,
    /// No look before this.
    not_before: Option<Instant>,
}

impl Notices {
    /// Begins to listen.
    pub(crate) fn new() -> Self {
        Notices {
            #[cfg(target_os = "linux")]
            socket: linux::Socket::open()
                .inspect_err(|error| tracing::debug!(%error, "no notices of network changes"))
                .ok(),
            not_before: None,
        }
    }

    /// Waits until something may have changed. Losing the future loses no notice.
    pub(crate) async fn next(&mut self) {
        if self.not_before.is_some() {
            clock::until(self.not_before).await;
        }
        #[cfg(target_os = "linux")]
        if let Some(socket) = &self.socket {
            if socket.heard().await {
                self.not_before = Some(clock::now() + PAUSE);
                return;
            }
            self.socket = None;
        }
        std::future::pending().await
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, os::fd::OwnedFd};

    use rustix::{
        io::Errno,
        net::{
            AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
            socket_with,
        },
    };
    use tokio::io::unix::AsyncFd;

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR and RTMGRP_IPV6_ROUTE of
    /// linux/rtnetlink.h.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    /// A socket that hears of links, addresses and routes.
    pub(super) struct Socket(AsyncFd<OwnedFd>);

    impl Socket {
        #[allow(
            deprecated,
            reason = "the caution is about types that give away their descriptor; this one owns it"
        )]
        pub(super) fn open() -> io::Result<Self> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // No protocol is protocol 0, NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            AsyncFd::new(socket).map(Socket)
        }

        /// Waits for notices and takes all that are there; `false` where none will ever come.
        pub(super) async fn heard(&self) -> bool {
            let mut heard = false;
            while !heard {
                let Ok(mut ready) = self.0.readable().await else { return false };
                loop {
                    // Cut off at the end of the buffer: nobody reads it.
                    match recv(self.0.get_ref(), &mut [0; 64][..], RecvFlags::empty()) {
                        // There were more than the socket holds, or it was interrupted: there is news.
                        Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => heard = true,
                        Err(Errno::AGAIN) => {
                            ready.clear_ready();
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "no more notices of network changes");
                            return false;
                        }
                    }
                }
            }
            heard
        }
    }
}
