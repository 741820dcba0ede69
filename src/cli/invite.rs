//! `punchtunnel invite`: a one-time code for a new client.

use std::time::Duration;

use punchtunnel::{
    Error,
    error::seconds,
    identity::{Code, Grant, Name, Trust},
};

use super::{
    args::InviteArgs,
    output::{Output, answer},
    settings::{Place, Span, fill_random, unix_now},
};

/// How long an invite is good for, unless told otherwise: long enough to walk to the other computer.
const TTL: Duration = Duration::from_secs(600);

/// Prints a fresh code, and nothing else, on standard output.
pub(crate) fn run(args: InviteArgs, place: &Place, output: &Output) -> Result<(), Error> {
    let ttl = ttl(args.invite_ttl, place)?;
    let grant = args.services.unwrap_or(Grant::All);
    let code = open(&place.trust(), &args.name, grant, ttl)?;
    answer(&code.reveal())?;
    output.line(&format!(
        "good once, for {}: punchtunnel connect {} -L PORT --invite CODE",
        seconds(ttl),
        args.name
    ));
    Ok(())
}

/// How long an invite is to be good for.
pub(crate) fn ttl(typed: Option<Span>, place: &Place) -> Result<Duration, Error> {
    Ok(place.one(typed, "invite-ttl")?.map_or(TTL, |Span(span)| span))
}

/// Makes an invite.
pub(crate) fn open(trust: &Trust, name: &Name, grant: Grant, ttl: Duration) -> Result<Code, Error> {
    let mut random = zeroize::Zeroizing::new([0; 24]);
    fill_random(random.as_mut_slice())?;
    Ok(trust.open_invite(name, grant, &random, unix_now(), ttl)?)
}
