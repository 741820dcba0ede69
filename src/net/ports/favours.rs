//! The client's side of knocks and crossings ([`crate::wire::examine`]).

use std::{io, net::SocketAddr, time::Duration};

use socket2::Socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    open::{Happened, established},
    socket::{self, Family},
};
use crate::{
    endpoint::{Favour, PortsId},
    wire::{
        examine::{Knocked, QUESTION},
        probe::{Purpose, preamble},
    },
};

/// A favour takes the server 1.5 s, and a few round trips to ask for.
const LIMIT: Duration = Duration::from_secs(5);

/// A door is a port that the server's system has just given it. Below these are services, its own or those of others behind its
/// address, and a server may say any.
const LOWEST_DOOR: u16 = 1024;

/// From where to ask whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    /// The number of a punch port.
    pub(super) port: u16,
    /// The server.
    pub(super) server: SocketAddr,
    /// For what.
    pub(super) favour: Favour,
}

/// Asks on a connection whose SYN has left, and reports the answer.
pub(super) async fn ask(
    ports: PortsId,
    asking: Asking,
    started: io::Result<Socket>,
    report: mpsc::Sender<Happened>,
) {
    let asked = tokio::time::timeout(LIMIT, async { asking.ask(started?).await });
    let answer = match asked.await {
        Ok(Ok(answer)) => Some(answer),
        // It may be an older server.
        failed => {
            tracing::debug!(?asking, ?failed, "a favour was not done");
            None
        }
    };
    let favour = asking.favour;
    report.send(Happened::Favoured { ports, favour, answer }).await.ok();
}

impl Asking {
    async fn ask(self, socket: Socket) -> io::Result<Knocked> {
        let mut stream = TcpStream::from_std(socket.into())?;
        established(&stream).await?;
        let _opener = match self.favour {
            Favour::Knock(origin) => {
                stream.write_all(&[&preamble(Purpose::Knock)[..], &origin.question()].concat()).await?;
                None
            }
            Favour::Cross => {
                stream.write_all(&preamble(Purpose::Cross)).await?;
                let door = stream.read_u16().await?;
                if door == 0 {
                    return Ok(Knocked::Busy);
                }
                if door < LOWEST_DOOR {
                    return Err(io::Error::other(format!("the server names port {door} as its door")));
                }
                let opener = socket::bound(Family::of(&self.server), self.port)?;
                socket::start(&opener, SocketAddr::new(self.server.ip(), door), None)?;
                stream.write_all(&[0; QUESTION]).await?;
                // Held until the answer is there: its SYN is what crosses.
                Some(opener)
            }
        };
        Knocked::parse(stream.read_u8().await?).map_err(io::Error::other)
    }
}
