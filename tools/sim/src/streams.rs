//! Area `streams`: whole media drivers exchange streams of every kind of channel, while links, drivers and clients fail.
//!
//! Two to five hosts have a driver and a process with its clients. For three seconds of virtual time streams flow and
//! faults happen to links, drivers and clients. Then there are no more faults, and these limits hold:
//!
//! - Within [`RESUME_NS`] every reader that is neither stuck nor unheard by design gets messages that were sent after
//!   the last fault.
//! - Within [`DRAINING_NS`] of the last message every reader has read everything that was sent to it.
//! - Within [`CLOSING_NS`] of the last close no driver keeps a log, a counter, a byte or a socket.
//!
//! At all times, within the image of a reader, no message is missing (except with `reliable=false`), none is repeated or
//! early, and the bytes are those that were sent. No sender goes further than its receivers have granted. Positions do
//! not decrease.

mod asked;
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
/// End of the faults, virtual ns.
pub const FAULTS_END_NS: i64 = 3 * SECOND_NS;
/// Time after the last fault in which streams flow again, virtual ns. A client notices that its driver is gone (0.9
/// s), its driver that the old client is gone (0.8 s); an image and a connection end (1 s, 1.2 s); a request for a
/// SETUP is abandoned and repeated (1 s); claims that were never committed delay what waits behind them (0.9 s each).
pub const RESUME_NS: i64 = 10 * SECOND_NS;
/// Time after the last message in which all messages are read, virtual ns.
pub const DRAINING_NS: i64 = 8 * SECOND_NS;
/// Time after the last close in which all resources are gone, virtual ns: images drain and linger, publications
/// linger.
pub const CLOSING_NS: i64 = 6 * SECOND_NS;

/// Returns the process with the clients of a host.
fn client_of(hosts: usize, host: HostId) -> HostId {
    hosts + host
}

/// Names of the faults, frames, states and rare branches that enough seeds must hit.
pub const EXPECTED: [&str; 104] = [
    "NAK of a group answered",
    "NAK of a group repeated",
    "NAK of a group that another was answered for",
    "claim aborted",
    "claim never committed",
    "client killed",
    "client lost its driver",
    "client was not run for too long",
    "data sent again",
    "data to a group that is a destination",
    "datagram cut off",
    "datagram doubled",
    "datagram dropped by a full socket",
    "datagram held back",
    "datagram lost",
    "datagram overtook another",
    "datagram to a group of one host",
    "datagram to a group of several hosts",
    "datagram to a group that nobody hears",
    "datagram too long for the link",
    "datagram without a hop to go",
    "datagram without a listener",
    "destination added again",
    "destination removed",
    "driver killed",
    "driver: NAKs received",
    "driver: NAKs sent",
    "driver: client timeouts",
    "driver: error frames received",
    "driver: error frames sent",
    "driver: flow control limits",
    "driver: heartbeats received",
    "driver: heartbeats sent",
    "driver: images rejected",
    "driver: images revoked",
    "driver: images with fewer hops than their senders",
    "driver: loss gap fills",
    "driver: over runs",
    "driver: publications revoked",
    "driver: retransmit overflow",
    "driver: retransmits",
    "driver: retransmitted bytes",
    "driver: short sends",
    "driver: status messages received",
    "driver: status messages rejected",
    "driver: unblocked publications",
    "driver: under runs",
    "fault: link cut one way",
    "fault: link held back",
    "fault: link with a short MTU",
    "fault: no room for sends",
    "fault: noise on a link",
    "fault: process crash of a unit",
    "fault: process not run",
    "flow control lost a receiver",
    "frame: NAK",
    "frame: SETUP",
    "frame: SETUP of a group",
    "frame: answer to a round trip",
    "frame: data",
    "frame: error",
    "frame: heartbeat",
    "frame: heartbeat at the end of a stream",
    "frame: heartbeat of a revoked stream",
    "frame: last status message",
    "frame: padding",
    "frame: request for a SETUP",
    "frame: response SETUP",
    "frame: round trip",
    "frame: status message",
    "frame: status message with a tag",
    "gap filled that another receiver asked for",
    "group too small",
    "image lost although its stream goes on",
    "image of a receiver that no sender hears",
    "image rejected",
    "offer: administrative action",
    "offer: back pressure",
    "offer: not connected",
    "publication closed",
    "publication closed: what it names has gone",
    "publication of answers added",
    "publication of requests added",
    "publication refused: what it names has gone",
    "publication revoked",
    "publication was told of a refusal",
    "reader came to the end of a revoked stream",
    "reader came to the end of a stream",
    "reader joined late",
    "receiver joined a group",
    "receiver of a group timed out",
    "send queue full",
    "session came back",
    "short send",
    "source of a subscription added",
    "source refused: its address is in use",
    "spies waited for a receiver that joins",
    "spy joined late",
    "status message of long ago",
    "streams flowed again within a second",
    "subscription closed",
    "unreliable reader did without a message",
    "untethered reader came back",
    "untethered reader was left behind, or lost its image",
];
