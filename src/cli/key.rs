//! `punchtunnel key`: this computer's public key.

use punchtunnel::Error;

use super::{output::answer, settings::Place};

/// Prints the public key, and makes the pair where there is none.
pub(crate) fn run(place: &Place) -> Result<(), Error> {
    answer(&place.key()?.public().to_string())
}
