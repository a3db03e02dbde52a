//! Sends every message back.

use harrier_cluster::service::{Cluster, ClusteredService};

/// A service that answers each message of a session with the message itself.
#[derive(Debug, Default, Clone, Copy)]
pub struct EchoService;

impl ClusteredService for EchoService {
    #[inline]
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session_id: Option<i64>,
        _timestamp: i64,
        message: &[u8],
    ) {
        let Some(id) = session_id else { return };
        while let Err(error) = cluster.send_to_session(id, message) {
            if !error.is_retryable() {
                return;
            }
            cluster.idle(0);
        }
    }
}
