//! Fenced ingress: a service that only receives messages of the present tenure (spec 05 L10, L20).

use harrier_cluster::codec::{CloseReason, Role};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, LeadershipTerm, ServiceFailure, SnapshotImage,
    SnapshotPublication,
};

use crate::codec::{Envelope, Event, MAX_MESSAGE_LENGTH, MAX_NAME_LENGTH, Request, is_ours};
use crate::settings::{InvalidLeaseSetting, LeaseSettings};
use crate::stored;
use crate::table::LeaseTable;
use crate::teller::Teller;

/// Any service of a cluster with a lease service, and a copy of the lease table before it.
///
/// The lease service's requests are in the log of all services, so the copy follows it; `settings` must be the lease
/// service's. A message in an [`Envelope`] is judged at its position of the log, live and in replay alike: one of the
/// present tenure reaches the service without its envelope, one of a tenure that is over does not reach it, and its
/// client gets a [`FenceStale`](Event::FenceStale). Messages without a fence pass. Requests of leases and timers of
/// leases do not reach the service. The copy is in the service's snapshot, before the service's own part.
///
/// ```
/// use harrier_cluster::service::{
///     ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotPublication,
/// };
/// use harrier_lease::{FencedService, LeaseSettings};
///
/// struct Counter(u64);
///
/// impl ClusteredService for Counter {
///     fn on_session_message(
///         &mut self, _: &mut Cluster<'_>, _: Option<&ClientSession>, _: i64, _: &[u8], _: &Header<'_>,
///     ) {
///         self.0 += 1; // nothing of a deposed leader comes here
///     }
///
///     fn on_take_snapshot(
///         &mut self, cluster: &mut Cluster<'_>, snapshot: &mut SnapshotPublication,
///     ) -> Result<(), ServiceFailure> {
///         cluster.retry(|_| Ok(snapshot.offer(&self.0.to_le_bytes())?))?;
///         Ok(())
///     }
/// }
///
/// let service = FencedService::new(Counter(0), LeaseSettings::default()).unwrap();
/// assert_eq!(service.service().0, 0);
/// ```
pub struct FencedService<S> {
    service: S,
    table: LeaseTable,
    buffer: [u8; MAX_MESSAGE_LENGTH],
}

impl<S: ClusteredService> FencedService<S> {
    /// Wraps a service.
    ///
    /// # Errors
    ///
    /// Invalid setting.
    pub fn new(service: S, settings: LeaseSettings) -> Result<Self, InvalidLeaseSetting> {
        Ok(Self { service, table: LeaseTable::new(settings)?, buffer: [0; MAX_MESSAGE_LENGTH] })
    }

    /// The service behind the fence.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The copy of the lease table.
    pub fn table(&self) -> &LeaseTable {
        &self.table
    }

    /// Judges a message of the leases' schema; returns the message that the service may receive.
    fn judge<'m>(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        message: &'m [u8],
        log_position: i64,
    ) -> Option<&'m [u8]> {
        match Envelope::decode(message) {
            Ok(Some(envelope)) => {
                let current_token = self.table.current_token(envelope.application);
                if envelope.token != 0 && envelope.token == current_token {
                    return Some(envelope.payload);
                }
                let Envelope { correlation_id, token, application, .. } = envelope;
                // An invalid name has no lease, and does not fit into the answer.
                let application = if application.len() <= MAX_NAME_LENGTH { application } else { "" };
                let stale =
                    Event::FenceStale { correlation_id, token, current_token, log_position, application };
                let mut teller = Teller::new(cluster);
                if let Some(session) = session {
                    teller.tell_event(session.id, &stale, &mut self.buffer);
                }
            }
            Ok(None) => {
                if let (Some(_), Ok(request)) = (session, Request::decode(message)) {
                    // The lease service handles answers and timers.
                    let _for_the_lease_service = self.table.apply(log_position, &request);
                }
            }
            Err(_) => {}
        }
        None
    }
}

impl<S: ClusteredService> ClusteredService for FencedService<S> {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        mut snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        if let Some(snapshot) = snapshot.as_deref_mut() {
            stored::read(cluster, snapshot, &mut self.table, None)?;
        }
        self.service.on_start(cluster, snapshot)
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        self.table.advance(timestamp);
        self.service.on_session_open(cluster, session, timestamp);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        self.table.advance(timestamp);
        self.service.on_session_close(cluster, session, timestamp, reason);
    }

    #[inline]
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        self.table.advance(timestamp);
        let heard = if is_ours(message) {
            self.judge(cluster, session, message, header.position())
        } else {
            Some(message)
        };
        if let Some(message) = heard {
            self.service.on_session_message(cluster, session, timestamp, message, header);
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        self.table.advance(timestamp);
        if self.table.on_timer(correlation_id).is_none() {
            self.service.on_timer_event(cluster, correlation_id, timestamp);
        }
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        stored::write(cluster, snapshot, &self.table, None)?;
        self.service.on_take_snapshot(cluster, snapshot)
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        self.service.on_role_change(cluster, role);
    }

    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        self.service.on_terminate(cluster);
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.table.on_new_term(term.timestamp, term.time_unit);
        self.service.on_new_leadership_term_event(cluster, term);
    }

    fn do_background_work(&mut self, cluster: &mut Cluster<'_>, now_ns: i64) -> usize {
        self.service.do_background_work(cluster, now_ns)
    }
}
