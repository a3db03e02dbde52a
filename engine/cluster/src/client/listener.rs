//! Callbacks of a client (spec 04 §3.2, egress dispatch).

use crate::codec::EventCode;

/// Receives egress; all methods do nothing unless overridden.
pub trait EgressListener {
    /// A message of a service; `timestamp` is the cluster time of the event that it answers.
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, _message: &[u8]) {}

    /// A new leader or a new term of the same one. The client sends the keep-alive that should be the first message to
    /// it.
    fn on_new_leader(&mut self, _leadership_term_id: i64, _leader_member_id: i32, _ingress_endpoints: &str) {}

    /// An event of the session. A second `Ok` may follow after a failover.
    fn on_session_event(&mut self, _code: EventCode, _detail: &str) {}

    /// Answer to an admin request: `code` 0 is success, 1 an error, 2 not authorised.
    fn on_admin_response(&mut self, _correlation_id: i64, _request_type: i32, _code: i32, _message: &str) {}
}

/// Lets a closure receive messages only.
impl<F: FnMut(i64, i64, &[u8])> EgressListener for F {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        self(session_id, timestamp, message);
    }
}
