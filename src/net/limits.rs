//! What the process may use.

/// Raises the limit on open files to what the system allows, and returns it.
///
/// A burst may hold more than a thousand sockets, and a busy host as many streams, while the usual
/// soft limit is 1024, a relic of `select`.
pub(crate) fn raise_open_files() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum
            && let Err(error) =
                setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        {
            tracing::debug!(%error, "the limit on open files stays as it is");
        }
        let files = getrlimit(Resource::Nofile).current;
        files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
    usize::MAX
}
