//! What a client hears (spec 04 §3.2, egress dispatch).

use crate::codec::EventCode;

/// What a client hears; all methods do nothing unless overridden.
pub trait EgressListener {
    /// A message of a service; `timestamp` is the cluster time of the event that it answers.
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, _message: &[u8]) {}

    /// Another member leads, or the same one in a new term. The first message to it should be a keep-alive, which the
    /// client sends by itself.
    fn on_new_leader(&mut self, _leadership_term_id: i64, _leader_member_id: i32, _ingress_endpoints: &str) {}

    /// News of the session. A second `Ok` may come after a new leader has taken over.
    fn on_session_event(&mut self, _code: EventCode, _detail: &str) {}

    /// The answer to a request of an administrator: `code` 0 is done, 1 failed, 2 not authorised.
    fn on_admin_response(&mut self, _correlation_id: i64, _request_type: i32, _code: i32, _message: &str) {}
}

/// Only messages, for closures.
impl<F: FnMut(i64, i64, &[u8])> EgressListener for F {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        self(session_id, timestamp, message);
    }
}
