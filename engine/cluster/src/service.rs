//! Clustered services and the container that runs them (spec 04 §7).

mod claim;
mod cluster;
mod container;
mod context;
mod core;
mod counters;
mod error;
mod event;
mod image;
mod join;
mod log;
mod patience;
mod session;
mod snapshot;
mod start;
mod termination;

pub use claim::ClusterClaim;
pub use cluster::{Cluster, ClusterError};
pub use container::ServiceContainer;
pub use context::{InvalidServiceSetting, ServiceContainerContext};
pub use error::ContainerError;
pub use image::SnapshotImage;
pub use session::ClientSession;

/// Publication of a snapshot; the archive records it.
pub use harrier_client::ExclusivePublication as SnapshotPublication;
pub use harrier_ringbuf::image_reader::Header;

use crate::codec::{CloseReason, Role, TimeUnit};

/// Text of the error with which the agents of a node end on request.
pub(crate) const EXPECTED_TERMINATION: &str = "expected termination";

/// Error of a service's start or snapshot; every error type converts with `?`, texts with `into()`.
pub type ServiceFailure = Box<dyn std::error::Error>;

/// A new leadership term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadershipTerm {
    /// Leadership term id.
    pub leadership_term_id: i64,
    /// Log position after the event of the term, bytes.
    pub log_position: i64,
    /// Cluster time, in the unit of the cluster's clock.
    pub timestamp: i64,
    /// Log position at which the term begins, bytes.
    pub term_base_log_position: i64,
    /// Id of the leader; -1 when there is none.
    pub leader_member_id: i32,
    /// Session id of the log's publication.
    pub log_session_id: i32,
    /// Unit of cluster time.
    pub time_unit: TimeUnit,
    /// Version of the application, as a packed semantic version.
    pub app_version: i32,
}

/// A deterministic service: its behaviour depends only on the log (spec 04 §7.4).
///
/// Callbacks run on the container's thread in log order; after a restart they run again from the last snapshot on. A
/// callback must wait only in [`Cluster::idle`]. Timestamps are cluster time in [`Cluster::time_unit`]. A panic in a
/// callback ends the container and the node.
pub trait ClusteredService {
    /// The service starts. `snapshot` holds the state that [`on_take_snapshot`](Self::on_take_snapshot) wrote, if any.
    /// Sends nothing and schedules nothing.
    ///
    /// # Errors
    /// The service cannot start; the node ends.
    fn on_start(
        &mut self,
        _cluster: &mut Cluster<'_>,
        _snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }

    /// A client opened a session.
    fn on_session_open(&mut self, _cluster: &mut Cluster<'_>, _session: &ClientSession, _timestamp: i64) {}

    /// A session ended; it no longer accepts messages.
    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        _session: &ClientSession,
        _timestamp: i64,
        _reason: CloseReason,
    ) {
    }

    /// A message of a session, or with `None` of a service of the cluster ([`Cluster::offer`]). `header` is the header
    /// of the message in the log.
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    );

    /// A timer fired, at `timestamp` or a little earlier.
    fn on_timer_event(&mut self, _cluster: &mut Cluster<'_>, _correlation_id: i64, _timestamp: i64) {}

    /// The service writes its state. Unwritten state is lost, because the log before this position is not replayed. May
    /// send, but should not: some members may skip a snapshot that others take.
    ///
    /// # Errors
    /// The snapshot is discarded; the service continues.
    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure>;

    /// The role of the member changed. Sends nothing and schedules nothing.
    fn on_role_change(&mut self, _cluster: &mut Cluster<'_>, _role: Role) {}

    /// The container terminates. Sends nothing and schedules nothing.
    fn on_terminate(&mut self, _cluster: &mut Cluster<'_>) {}

    /// A new leadership term began.
    fn on_new_leadership_term_event(&mut self, _cluster: &mut Cluster<'_>, _term: &LeadershipTerm) {}

    /// Called in every duty cycle with monotonic time; returns the work done. Must not change state that log callbacks
    /// depend on. Sends nothing and schedules nothing.
    fn do_background_work(&mut self, _cluster: &mut Cluster<'_>, _now_ns: i64) -> usize {
        0
    }
}

impl<S: ClusteredService + ?Sized> ClusteredService for Box<S> {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        (**self).on_start(cluster, snapshot)
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        (**self).on_session_open(cluster, session, timestamp);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        (**self).on_session_close(cluster, session, timestamp, reason);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        (**self).on_session_message(cluster, session, timestamp, message, header);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        (**self).on_timer_event(cluster, correlation_id, timestamp);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        (**self).on_take_snapshot(cluster, snapshot)
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        (**self).on_role_change(cluster, role);
    }

    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        (**self).on_terminate(cluster);
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        (**self).on_new_leadership_term_event(cluster, term);
    }

    fn do_background_work(&mut self, cluster: &mut Cluster<'_>, now_ns: i64) -> usize {
        (**self).do_background_work(cluster, now_ns)
    }
}
