//! Area `streams`: whole media drivers exchange streams in every way that a channel can say, and everything happens to
//! them that happens to networks and processes.
//!
//! Two to five hosts have a driver and a process with its clients. For three seconds of virtual time streams flow and
//! faults befall links, drivers and clients. Then all is well, and
//!
//! - within [`RESUME_NS`] every reader that is not stuck by design gets messages that were sent after the last fault;
//! - within [`DRAINING_NS`] of the last message every reader has read all that is sent to it;
//! - within [`CLOSING_NS`] of the last close no driver keeps a log, a counter, a byte or a socket.
//!
//! At all times, within the image of a reader, no message is missing (but for `reliable=false`), none comes twice or early,
//! and bytes are those that were sent; no sender goes further than its receivers have granted; positions do not go back.

mod books;
mod limits;
mod listener;
mod peer;
mod plan;
mod run;
mod truth;
mod wire;
mod writer;

pub use run::{Scenario, run};
pub use wire::Wire;

use crate::kernel::HostId;

const SECOND_NS: i64 = 1_000_000_000;
/// Most hosts of a run.
const MAX_HOSTS: usize = 5;
/// Faults end here, virtual ns.
pub const FAULTS_END_NS: i64 = 3 * SECOND_NS;
/// Streams flow again so long after the last fault, virtual ns. A client finds out that its driver has gone (0.9 s), its
/// driver that the old client has (0.8 s); an image and a connection end (1 s, 1.2 s); a request for a SETUP is given up and
/// made again (1 s).
pub const RESUME_NS: i64 = 5 * SECOND_NS;
/// What is under way is read so long after the last message, virtual ns.
pub const DRAINING_NS: i64 = 4 * SECOND_NS;
/// All resources are gone so long after the last close, virtual ns: images drain and linger, publications linger.
pub const CLOSING_NS: i64 = 6 * SECOND_NS;

/// The process with a host's clients.
fn client_of(hosts: usize, host: HostId) -> HostId {
    hosts + host
}

/// What enough seeds must have hit.
pub const EXPECTED: [&str; 1] = ["frame: NAK"];
