//! Options of a test rig.

use std::net::SocketAddr;

use super::rig::SESSION;
use crate::receiver::transport::MulticastGroup;

/// Options that differ from a unicast stream with the defaults of a driver.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) channel: String,
    pub(super) session_id: i32,
    pub(super) initial_term_id: i32,
    pub(super) flow_control: Option<&'static str>,
    /// True when the channel of the publication names its endpoint.
    pub(super) is_named: bool,
    pub(super) is_dynamic: bool,
    pub(super) is_reliable: bool,
    /// True when receivers wait at random before they send NAKs.
    pub(super) backs_off: bool,
    pub(super) receivers: u16,
    pub(super) group_tag: Option<i64>,
    /// True when the first endpoint has no socket of its own, and commands add its destinations.
    pub(super) is_manual_receiver: bool,
    pub(super) multicast: Option<MulticastGroup>,
    /// Time to live in the SETUPs of the publication.
    pub(super) ttl: i32,
    pub(super) is_response: bool,
    /// Subscription that awaits the answers to the publication.
    pub(super) response_subscription: Option<i64>,
    pub(super) control: Option<SocketAddr>,
    pub(super) congestion: &'static str,
    pub(super) measures_rtt: bool,
    pub(super) retransmit_delay_ns: i64,
    pub(super) session_limit: i32,
    pub(super) interceptors: (&'static str, &'static str, &'static str),
    pub(super) queue: usize,
    /// Bytes of an image's log that are allocated at first; 0 allocates it whole.
    pub(super) allocation_length: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channel: "aeron:udp?endpoint=127.0.0.1:2000|term-length=64k".into(),
            session_id: SESSION,
            initial_term_id: 100,
            flow_control: None,
            is_named: false,
            is_dynamic: false,
            is_reliable: true,
            backs_off: false,
            receivers: 1,
            group_tag: None,
            is_manual_receiver: false,
            multicast: None,
            ttl: 0,
            is_response: false,
            response_subscription: None,
            control: None,
            congestion: "static",
            measures_rtt: false,
            retransmit_delay_ns: 0,
            session_limit: i32::MAX,
            interceptors: ("", "", ""),
            queue: 64,
            allocation_length: 0,
        }
    }
}
