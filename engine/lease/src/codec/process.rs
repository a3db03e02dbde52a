//! The process that claims for a unit (spec 05 L23).

use harrier_protocol::sbe::Block;

/// Identity of a process that claims leases for its units (spec 05 L23).
///
/// Two claims with the same `id` come from the same process. `name` and `started_ms` tell people which process that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process<'a> {
    /// Number of the process, unique among all processes of all hosts. 0 stands for a client that does not name its
    /// process.
    pub id: u64,
    /// Time when the process started, ms since the Unix epoch.
    pub started_ms: i64,
    /// Text that identifies the process to people, for instance `pid 4711 on host-a`; at most 128 bytes.
    pub name: &'a str,
}

impl Process<'_> {
    /// Process of a client that does not name one.
    pub const UNNAMED: Process<'static> = Process { id: 0, started_ms: 0, name: "" };
}

impl<'a> Process<'a> {
    /// Version of the schema that added processes.
    pub(super) const SINCE: u16 = 2;

    /// Reads id and start from the 16 bytes of a block at `offset`. `name` is the message's variable field.
    pub(super) fn read(block: &Block<'_>, offset: usize, name: &'a str) -> Self {
        if !block.has(offset, 16, Self::SINCE) {
            return Process::UNNAMED;
        }
        let (id, started_ms) = (block.i64(offset, 0) as u64, block.i64(offset + 8, 0));
        Self { id, started_ms, name }
    }
}
