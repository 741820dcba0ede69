//! What is in memory stays there.
//!
//! A program that holds keys must not leave them in a file when it crashes: it has no core dump. On Linux it says in
//! addition that it is not dumpable, which covers programs that collect crashes (they are not held by a limit), and
//! keeps other processes of the same user from reading its memory and its environment, where an invite may be. A
//! debugger and `strace` need root for it then.

/// Does so, as far as the system allows.
pub(crate) fn hide_memory() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        // It can only fail where there is nothing to lower.
        let _ = setrlimit(Resource::Core, none);
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
