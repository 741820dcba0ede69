//! One peer, whole, without its sockets. (Skeleton.)
mod io;
pub use io::*;
