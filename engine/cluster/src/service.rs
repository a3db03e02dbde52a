//! Clustered services and the container that runs them (spec 04 §7).

mod cluster;
mod container;
mod context;
mod log;

pub use cluster::{Cluster, ClusterError};
pub use container::{ContainerError, ServiceContainer};
pub use context::ServiceContainerContext;

use crate::codec::{CloseReason, Role, TimeUnit};

/// A client's session as a service sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSession {
    /// Id of the session.
    pub id: i64,
    /// Stream on which its client listens.
    pub response_stream_id: i32,
    /// Channel on which its client listens.
    pub response_channel: String,
    /// Who the client is, as the authenticator said.
    pub principal: Vec<u8>,
}

/// A new leadership term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of spec 04 §1.4, message 24")]
pub struct LeadershipTerm {
    pub leadership_term_id: i64,
    pub log_position: i64,
    pub timestamp: i64,
    pub term_base_log_position: i64,
    pub leader_member_id: i32,
    pub log_session_id: i32,
    pub time_unit: TimeUnit,
    pub app_version: i32,
}

/// A deterministic service: what it does depends on nothing but the log (spec 04 §7.4).
///
/// Callbacks run on the container's thread, in the order of the log. One that has to wait for back pressure does so in
/// [`Cluster::idle`] and nowhere else.
pub trait ClusteredService {
    /// The service starts with the state it was made with.
    fn on_start(&mut self, _cluster: &mut Cluster<'_>) {}

    /// A client has opened a session.
    fn on_session_open(&mut self, _cluster: &mut Cluster<'_>, _session: &ClientSession, _timestamp: i64) {}

    /// A session has ended; it can be sent to no more.
    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        _session: &ClientSession,
        _timestamp: i64,
        _reason: CloseReason,
    ) {
    }

    /// A message of a session, or with `None` of a service of the cluster.
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session_id: Option<i64>,
        timestamp: i64,
        message: &[u8],
    );

    /// A timer has fired.
    fn on_timer_event(&mut self, _cluster: &mut Cluster<'_>, _correlation_id: i64, _timestamp: i64) {}

    /// The member has another role.
    fn on_role_change(&mut self, _cluster: &mut Cluster<'_>, _role: Role) {}

    /// A term has begun.
    fn on_new_leadership_term(&mut self, _cluster: &mut Cluster<'_>, _term: &LeadershipTerm) {}

    /// The container ends.
    fn on_terminate(&mut self, _cluster: &mut Cluster<'_>) {}

    /// Called in every duty cycle; returns the work done. Must not change the service's state.
    fn do_background_work(&mut self, _cluster: &mut Cluster<'_>) -> usize {
        0
    }
}

impl ClusteredService for Box<dyn ClusteredService> {
    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        (**self).on_start(cluster);
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
        session_id: Option<i64>,
        timestamp: i64,
        message: &[u8],
    ) {
        (**self).on_session_message(cluster, session_id, timestamp, message);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        (**self).on_timer_event(cluster, correlation_id, timestamp);
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        (**self).on_role_change(cluster, role);
    }

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        (**self).on_new_leadership_term(cluster, term);
    }

    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        (**self).on_terminate(cluster);
    }

    fn do_background_work(&mut self, cluster: &mut Cluster<'_>) -> usize {
        (**self).do_background_work(cluster)
    }
}
