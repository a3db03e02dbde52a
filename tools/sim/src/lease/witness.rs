//! Services that report to the checkers each event of the log and the table after it.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_cluster::codec::{CloseReason, Role};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, LeadershipTerm, ServiceFailure, SnapshotImage,
    SnapshotPublication,
};
use harrier_lease::codec::{Envelope, Record, Request};
use harrier_lease::table::{LeaseTable, TIMER_BASE};
use harrier_lease::{FencedService, LeaseService};
use harrier_protocol::sbe::SbeError;

use super::recorder::Recorder;
use super::truth::{Holder, Table, Truth};
use super::{APPLICATIONS, SETTINGS, application_name, place_of};
use crate::history::{Event, EventKind, History};
use crate::kernel::Kernel;
use crate::trace::hash_bytes;

/// A service with a lease table.
pub trait Leased: ClusteredService {
    /// Kind of the table.
    const TABLE: Table;

    /// Returns the table.
    fn table(&self) -> &LeaseTable;

    /// Returns the hash of its whole state.
    fn state_hash(&self) -> u64;

    /// Number of its waits for release.
    fn waiter_count(&self) -> usize {
        0
    }

    /// Number of messages with a fence that it has passed on.
    fn passed_count(&self) -> u64 {
        0
    }
}

fn mix(hash: u64, record: &[u8]) -> u64 {
    (hash.rotate_left(7) ^ hash_bytes(record)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn table_hash(table: &LeaseTable) -> u64 {
    let mut hash = 0;
    let written = table.write_state(&mut |record| -> Result<(), SbeError> {
        hash = mix(hash, record);
        Ok(())
    });
    debug_assert_eq!(written, Ok(()));
    hash
}

impl Leased for LeaseService {
    const TABLE: Table = Table::Leases;

    fn table(&self) -> &LeaseTable {
        self.table()
    }

    fn state_hash(&self) -> u64 {
        let mut hash = 0;
        let written = self.write_state(&mut |record| -> Result<(), SbeError> {
            hash = mix(hash, record);
            Ok(())
        });
        debug_assert_eq!(written, Ok(()));
        hash
    }

    fn waiter_count(&self) -> usize {
        self.waiter_count()
    }
}

impl Leased for FencedService<Recorder> {
    const TABLE: Table = Table::Fences;

    fn table(&self) -> &LeaseTable {
        self.table()
    }

    fn state_hash(&self) -> u64 {
        self.service().digest() ^ table_hash(self.table()).rotate_left(32)
    }

    fn passed_count(&self) -> u64 {
        self.service().count()
    }
}

/// A service that reports all events to the checkers.
pub struct Witness<S> {
    inner: S,
    history: Rc<RefCell<History>>,
    truth: Rc<RefCell<Truth>>,
    kernel: Kernel,
}

impl<S: Leased> Witness<S> {
    /// Creates a service for a new life of a node.
    pub fn new(inner: S, history: Rc<RefCell<History>>, truth: Rc<RefCell<Truth>>, kernel: Kernel) -> Self {
        Self { inner, history, truth, kernel }
    }

    fn hit(&self, what: &'static str) {
        self.kernel.state().coverage.hit(what);
    }

    fn is_lease_service(&self) -> bool {
        S::TABLE == Table::Leases
    }

    /// True when no life has seen the event that follows.
    fn is_new(&self) -> bool {
        self.history.borrow().has_caught_up()
    }

    fn holders(&self) -> [Holder; APPLICATIONS] {
        std::array::from_fn(|application| {
            let holder = self.inner.table().holder(application_name(application));
            holder.map_or(Holder::default(), |(unit, token)| Holder { unit: place_of(unit), token })
        })
    }

    /// Reports an event that the service has seen, and the state after it.
    fn see(&mut self, cluster: &Cluster<'_>, kind: EventKind, session_id: i64, detail: u64, timestamp: i64) {
        let is_new = self.is_new();
        let event = Event { position: cluster.log_position(), kind, session_id, detail, timestamp };
        let hash = table_hash(self.inner.table());
        self.history.borrow_mut().on_event(event, self.inner.state_hash());
        self.kernel.state().note("event", &[event.position as u64, session_id as u64, detail, hash]);
        let mut truth = self.truth.borrow_mut();
        truth.now_ns = self.kernel.state().now_ns;
        truth.on_table(event.position, hash);
        if is_new && S::TABLE == Table::Leases {
            let holders = self.holders();
            let tokens = holders.map(|holder| holder.token);
            self.kernel.state().note("holders", &tokens);
            let takeovers = truth.on_moment(holders);
            self.kernel.state().coverage.add("takeover by another unit", takeovers as u64);
        }
        let table = self.inner.table();
        if table.len() > SETTINGS.max_leases || self.inner.waiter_count() > SETTINGS.max_waiters {
            truth.violate("limits", format!("{} leases, {} waiters", table.len(), self.inner.waiter_count()));
        }
        if table.len() == SETTINGS.max_leases {
            self.hit("table full");
        }
    }

    /// Returns tokens and expiries, by slot.
    fn leases(&self) -> [Option<(u64, i64)>; SETTINGS.max_leases] {
        let mut leases = [None; SETTINGS.max_leases];
        let written = self.inner.table().write_state(&mut |record| -> Result<(), SbeError> {
            if let Ok(Record::Lease { slot, token, expiry, .. }) = Record::decode(record)
                && token != 0
            {
                leases[slot as usize] = Some((token, expiry));
            }
            Ok(())
        });
        debug_assert_eq!(written, Ok(()));
        leases
    }

    fn note_timer(&self, correlation_id: i64, timestamp: i64) {
        let slot = correlation_id - TIMER_BASE;
        self.hit(match self.leases().get(slot as usize).copied().flatten() {
            None => "timer of a lease that is gone",
            Some((_, expiry)) if expiry > timestamp => "timer early",
            Some((_, expiry)) if expiry < timestamp => "timer late",
            Some(_) => "timer on time",
        });
    }

    fn note_request(&self, session_id: i64, message: &[u8], waiters_before: usize) {
        let Ok(request) = Request::decode(message) else { return };
        let (what, detail) = match request {
            Request::Claim { duration_ns, .. } => ("log: claim", duration_ns as u64),
            Request::Release { token, .. } => ("log: release", token),
            Request::Check { .. } => ("log: check", 0),
            Request::Wait { correlation_id, token, application } => {
                let is_over = token != 0 && !self.inner.table().is_current(application, token);
                if is_over {
                    self.hit("wait for a tenure that is over");
                }
                // Checks spec 05 L7: a client that waits again for a tenure that is over is told so.
                if is_over && self.inner.waiter_count() > waiters_before {
                    let text = format!("session {session_id} waits for {token}, which is over");
                    self.truth.borrow_mut().violate("wake-up", text);
                }
                if self.truth.borrow_mut().on_wait_registered(session_id, correlation_id, token) {
                    self.hit("wait registered again");
                }
                ("log: wait", token)
            }
            Request::CancelWait { .. } => ("log: cancel", 0),
            Request::Pin { .. } => ("log: pin", 0),
            Request::Unpin { .. } => ("log: unpin", 0),
            Request::Pinned { .. } | Request::List { .. } => ("log: list", 0),
            Request::EndSession { session_id, .. } => ("log: end of a session", session_id as u64),
        };
        self.kernel.state().note(what, &[session_id as u64, request.correlation_id() as u64, detail]);
    }
}

impl<S: Leased> ClusteredService for Witness<S> {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let has_snapshot = snapshot.is_some();
        self.inner.on_start(cluster, snapshot)?;
        if has_snapshot {
            self.hit("snapshot loaded by a service");
            let position = cluster.log_position();
            let mut history = self.history.borrow_mut();
            let seen = history.events().partition_point(|event| event.position <= position);
            history.on_loaded(seen, self.inner.state_hash());
        }
        Ok(())
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        self.inner.on_session_open(cluster, session, timestamp);
        self.see(cluster, EventKind::Open, session.id, 0, timestamp);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        self.truth.borrow_mut().on_session_ended(session.id);
        let waiters = self.inner.waiter_count();
        self.inner.on_session_close(cluster, session, timestamp, reason);
        if self.inner.waiter_count() < waiters {
            self.hit("waits gone with their session");
        }
        if self.is_new() && self.is_lease_service() {
            self.hit(match reason {
                CloseReason::ClientAction => "session closed by its client",
                CloseReason::ServiceAction => "session closed by the service",
                CloseReason::Timeout => "session timed out",
            });
        }
        self.see(cluster, EventKind::Close(reason), session.id, 0, timestamp);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        let (is_new, passed) = (self.is_new(), self.inner.passed_count());
        let waiters = self.inner.waiter_count();
        let id = session.map_or(0, |session| session.id);
        // Keeps the state before the message; waiters are told before their registration is known otherwise.
        self.inner.on_session_message(cluster, session, timestamp, message, header);
        let position = header.position();
        let kind = EventKind::Message { offer: position as u64 };
        self.see(cluster, kind, id, hash_bytes(message), timestamp);
        let Ok(Some(envelope)) = Envelope::decode(message) else {
            if is_new && self.is_lease_service() {
                self.note_request(id, message, waiters);
            }
            return;
        };
        let passes = if self.is_lease_service() {
            self.inner.table().is_current(envelope.application, envelope.token)
        } else {
            self.inner.passed_count() > passed
        };
        let mut truth = self.truth.borrow_mut();
        truth.on_fenced(position, S::TABLE, passes);
        if is_new && self.is_lease_service() {
            self.hit(if passes { "fenced message passed" } else { "fenced message refused" });
            if passes && let Some((application, _)) = super::write_of(envelope.payload) {
                truth.on_passed(application, envelope.token);
            }
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        let is_noted = self.is_new() && self.is_lease_service();
        let waiters = self.inner.waiter_count();
        if is_noted {
            self.note_timer(correlation_id, timestamp);
        }
        self.inner.on_timer_event(cluster, correlation_id, timestamp);
        if is_noted && self.inner.waiter_count() < waiters {
            self.hit("expiry woke who waited");
        }
        self.see(cluster, EventKind::Timer, 0, correlation_id as u64, timestamp);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let (position, hash) = (cluster.log_position(), self.inner.state_hash());
        self.history.borrow_mut().on_snapshot_taken(position, hash);
        self.hit("snapshot taken by a service");
        if self.inner.waiter_count() > 0 {
            self.hit("snapshot taken with waiters");
        }
        self.inner.on_take_snapshot(cluster, snapshot)
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        self.inner.on_role_change(cluster, role);
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        let is_noted = self.is_new() && self.is_lease_service();
        let before = self.leases();
        self.inner.on_new_leadership_term_event(cluster, term);
        if is_noted {
            self.hit("leadership term");
            let after = self.leases();
            let count = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            self.kernel.state().coverage.add("lease extended by a new term", count as u64);
        }
        self.see(cluster, EventKind::Term, 0, term.leadership_term_id as u64, term.timestamp);
    }
}
