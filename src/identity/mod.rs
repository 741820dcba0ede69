//! Static keys, names, known hosts, authorised clients, invites. (Skeleton.)
/// A host's name.
pub struct Name(());
