//! The facts that `store check` asks a server for.

/// A server's own facts.
pub(crate) struct ServerFacts {
    /// `server_version_num`.
    pub(crate) version: u32,
    pub(crate) encrypted: bool,
    pub(crate) superuser: bool,
    pub(crate) local: bool,
}

/// The inputs of the guard, on this server.
pub(crate) struct GuardFacts {
    pub(crate) at_ms: u64,
    pub(crate) system_id: i64,
    pub(crate) timeline: i64,
    pub(crate) known: bool,
    pub(crate) confirmed: bool,
}
