//! The client's side of knocks and crossings.

use std::{io, net::SocketAddr, time::Duration};

use socket2::Socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    net::ports::socket::{self, Family},
    wire::{
        examine::{Knocked, Origin},
        probe::{Purpose, preamble},
    },
};

/// A favour takes the server 1.5 s, and a few round trips to ask for.
const LIMIT: Duration = Duration::from_secs(5);

/// From where to ask whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Favour {
    /// Of the server.
    pub(super) family: Family,
    /// A punch port that has no connection to the server yet.
    pub(super) port: u16,
    /// The server.
    pub(super) server: SocketAddr,
}

/// Has the server knock at the port. `None` where it did not answer: it may be an older one.
pub(super) async fn knock(favour: Option<Favour>, origin: Origin) -> Option<Knocked> {
    let favour = favour?;
    let asked = tokio::time::timeout(LIMIT, async {
        let mut stream = favour.connect(Purpose::Knock).await?;
        stream.write_u8(origin as u8).await?;
        answer(&mut stream).await
    });
    told(asked.await)
}

/// Opens towards the server while the server opens towards the port; a second time where nothing got
/// through, because packets get lost. `None` where the server did not answer.
pub(super) async fn cross(favours: [Option<Favour>; 2]) -> Option<Knocked> {
    let mut heard = None;
    for favour in favours.into_iter().flatten() {
        heard = told(tokio::time::timeout(LIMIT, favour.cross()).await).or(heard);
        if heard != Some(Knocked::Dropped) {
            break;
        }
    }
    heard
}

impl Favour {
    async fn cross(self) -> io::Result<Knocked> {
        let mut stream = self.connect(Purpose::Cross).await?;
        let door = stream.read_u16().await?;
        if door == 0 {
            return Ok(Knocked::Busy);
        }
        let opener = socket::bound(self.family, self.port)?;
        socket::start(&opener, SocketAddr::new(self.server.ip(), door), None)?;
        stream.write_u8(0).await?;
        // The opener is held until then: its SYN is what crosses.
        let answer = answer(&mut stream).await;
        drop(opener);
        answer
    }

    async fn connect(self, purpose: Purpose) -> io::Result<TcpStream> {
        let opener: Socket = socket::bound(self.family, self.port)?;
        socket::start(&opener, self.server, None)?;
        let mut stream = TcpStream::from_std(opener.into())?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        stream.write_all(&preamble(purpose)).await?;
        Ok(stream)
    }
}

async fn answer(stream: &mut TcpStream) -> io::Result<Knocked> {
    Knocked::parse(stream.read_u8().await?).map_err(io::Error::other)
}

fn told(result: Result<io::Result<Knocked>, tokio::time::error::Elapsed>) -> Option<Knocked> {
    match result {
        Ok(Ok(answer)) => Some(answer),
        failed => {
            tracing::debug!(?failed, "a favour was not done");
            None
        }
    }
}
