//! Sends every message back.

use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotPublication,
};

/// A service that answers each message of a session with the message itself.
#[derive(Debug, Default, Clone, Copy)]
pub struct EchoService;

impl ClusteredService for EchoService {
    #[inline]
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _timestamp: i64,
        message: &[u8],
        _header: &Header<'_>,
    ) {
        let Some(session) = session else { return };
        // A client that is gone or does not read must not fail the service.
        let _unheard = cluster.reply(session.id, message);
    }

    /// The service has no state.
    fn on_take_snapshot(
        &mut self,
        _cluster: &mut Cluster<'_>,
        _snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }
}
