//! The lease service: the table behind a cluster's log, with answers, timers and wake-ups (spec 05 L5–L8, L21).

use harrier_cluster::codec::CloseReason;
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, LeadershipTerm, ServiceFailure, SnapshotImage,
    SnapshotPublication,
};
use harrier_protocol::sbe::SbeError;

use crate::codec::{Answer, AnswerCode, Event, Request};
use crate::settings::{InvalidLeaseSetting, LeaseSettings};
use crate::stored;
use crate::table::{Effects, LeaseTable, Outcome};
use crate::teller::Teller;
use crate::waiters::{Wait, Waiters};

/// Length of a page, bytes: small enough for every egress stream.
const PAGE_LENGTH: usize = 4_096;

/// Grants leases.
///
/// Only the leader's container answers; offers of other members are discarded. Messages allocate nothing: the service
/// allocates all memory when it is created.
///
/// ```
/// use harrier_lease::{LeaseService, LeaseSettings};
///
/// let service = LeaseService::new(LeaseSettings { max_leases: 1_000, ..LeaseSettings::default() }).unwrap();
/// assert!(service.table().is_empty());
/// ```
pub struct LeaseService {
    table: LeaseTable,
    waiters: Waiters,
    buffer: Box<[u8]>,
}

impl LeaseService {
    /// Creates a service without leases.
    ///
    /// # Errors
    ///
    /// Invalid setting.
    pub fn new(settings: LeaseSettings) -> Result<Self, InvalidLeaseSetting> {
        Ok(Self {
            table: LeaseTable::new(settings)?,
            waiters: Waiters::new(settings.max_waiters, settings.max_leases),
            buffer: vec![0; PAGE_LENGTH].into_boxed_slice(),
        })
    }

    /// The lease table.
    pub fn table(&self) -> &LeaseTable {
        &self.table
    }

    /// Number of waits for the end of a tenure, of all sessions.
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// Passes the state to `put` as the records of a snapshot, for instance to compare replicas byte by byte.
    ///
    /// # Errors
    ///
    /// The error of `put`.
    pub fn write_state<E: From<SbeError>>(
        &self,
        put: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        stored::write_records(&self.table, Some(&self.waiters), put)
    }

    /// Creates a service with the state of a snapshot's records.
    ///
    /// # Errors
    ///
    /// Invalid setting, or see [`SnapshotStateError`](crate::table::SnapshotStateError).
    pub fn from_state<'m>(
        settings: LeaseSettings,
        records: impl IntoIterator<Item = &'m [u8]>,
    ) -> Result<Self, ServiceFailure> {
        let mut service = Self::new(settings)?;
        stored::read_records(records, &mut service.table, Some(&mut service.waiters))?;
        Ok(service)
    }

    fn carry_out(
        &mut self,
        cluster: &mut Cluster<'_>,
        session_id: i64,
        log_position: i64,
        request: &Request<'_>,
    ) {
        let (outcome, effects) = self.table.apply(log_position, request);
        let mut teller = Teller::new(cluster);
        // Waiters of a tenure that is over must go before its slot can have new ones.
        take_effect(&mut self.waiters, &mut self.buffer, &mut teller, effects);
        let correlation_id = request.correlation_id();
        let event = match outcome {
            Outcome::Answer { code, token, expiry, limit, detail } => {
                let answer = Answer::new(correlation_id, code);
                Event::Answer(Answer { token, expiry, limit, detail, ..answer })
            }
            Outcome::UnitHeld { slot, token, expiry } => {
                let (holder, claimed) = self.table.process_at(slot);
                let answer = Answer::new(correlation_id, AnswerCode::UnitHeld);
                Event::Answer(Answer { token, expiry, holder, claimed, ..answer })
            }
            Outcome::Wait { slot, token } => {
                let wait = Wait { session_id, correlation_id, lease_slot: slot };
                register(&mut self.waiters, wait, token, self.table.settings().max_waiters)
            }
            Outcome::Over { token } => Event::Released { correlation_id, token },
            Outcome::EndSession { session_id: other_id } => {
                let (code, detail) = end_session(teller.cluster(), session_id, other_id);
                Event::Answer(Answer { detail, ..Answer::new(correlation_id, code) })
            }
            Outcome::CancelWait => return self.waiters.cancel(session_id, correlation_id),
            Outcome::Leases { from } => {
                let length = self.table.write_leases(from, correlation_id, &mut self.buffer);
                return teller.tell(session_id, &self.buffer[..length]);
            }
            Outcome::Pins { from } => {
                let length = self.table.write_pins(from, correlation_id, &mut self.buffer);
                return teller.tell(session_id, &self.buffer[..length]);
            }
        };
        teller.tell_event(session_id, &event, &mut self.buffer);
    }
}

/// Ends another session of the requesting client. The session has ended once its end is in the log; none of its
/// messages follows.
fn end_session(cluster: &mut Cluster<'_>, session_id: i64, other_id: i64) -> (AnswerCode, &'static str) {
    let Some(other) = cluster.client_session(other_id) else { return (AnswerCode::SessionEnded, "") };
    let is_own =
        cluster.client_session(session_id).is_some_and(|session| session.principal == other.principal);
    if other_id == session_id {
        return (AnswerCode::Invalid, "session: must not be the one that asks");
    }
    if !is_own {
        return (AnswerCode::Invalid, "session: must be of the same principal");
    }
    // If the request is refused now, the client repeats it.
    let _is_asked_again = cluster.close_client_session(other_id);
    (AnswerCode::SessionEnding, "")
}

/// Registers a wait for a tenure, and returns the outcome.
fn register(waiters: &mut Waiters, wait: Wait, token: u64, max_waiters: usize) -> Event<'static> {
    let correlation_id = wait.correlation_id;
    Event::Answer(if waiters.add(wait) {
        Answer { token, ..Answer::new(correlation_id, AnswerCode::Waiting) }
    } else {
        let answer = Answer::new(correlation_id, AnswerCode::TooManyWaiters);
        Answer { token, limit: max_waiters as i64, detail: "max_waiters", ..answer }
    })
}

/// Wakes the waiters of a tenure that is over, and sets the timer that is requested.
fn take_effect(waiters: &mut Waiters, buffer: &mut [u8], teller: &mut Teller<'_, '_>, effects: Effects) {
    if let Some(ended) = effects.ended {
        while let Some(wait) = waiters.pop(ended.slot) {
            let event = Event::Released { correlation_id: wait.correlation_id, token: ended.token };
            teller.tell_event(wait.session_id, &event, buffer);
        }
    }
    if let Some(timer) = effects.timer {
        teller.set_timer(timer);
    }
}

impl ClusteredService for LeaseService {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        stored::read(cluster, snapshot, &mut self.table, Some(&mut self.waiters))?;
        stored::expect_end(cluster, snapshot)
    }

    fn on_session_open(&mut self, _cluster: &mut Cluster<'_>, _session: &ClientSession, timestamp: i64) {
        self.table.advance(timestamp);
    }

    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        _reason: CloseReason,
    ) {
        self.table.advance(timestamp);
        self.waiters.on_session_close(session.id);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        self.table.advance(timestamp);
        let (Some(session), Ok(request)) = (session, Request::decode(message)) else { return };
        self.carry_out(cluster, session.id, header.position(), &request);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        self.table.advance(timestamp);
        let Some(effects) = self.table.on_timer(correlation_id) else { return };
        let mut teller = Teller::new(cluster);
        take_effect(&mut self.waiters, &mut self.buffer, &mut teller, effects);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        stored::write(cluster, snapshot, &self.table, Some(&self.waiters))
    }

    fn on_new_leadership_term_event(&mut self, _cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.table.on_new_term(term.timestamp, term.time_unit);
    }
}

#[cfg(test)]
mod tests {
    use harrier_cluster::codec::TimeUnit;

    use super::*;
    use crate::codec::{Process, Record};

    fn settings() -> LeaseSettings {
        LeaseSettings { max_leases: 4, max_waiters: 3, max_pins: 2, ..LeaseSettings::default() }
    }

    fn state(service: &LeaseService) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut put = |record: &[u8]| -> Result<(), SbeError> {
            records.push(record.to_vec());
            Ok(())
        };
        service.write_state(&mut put).unwrap();
        records
    }

    fn restored(settings: LeaseSettings, records: &[Vec<u8>]) -> Result<LeaseService, String> {
        let records = records.iter().map(Vec::as_slice);
        LeaseService::from_state(settings, records).map_err(|error| error.to_string())
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut buffer = vec![0; 512];
        let length = record.encode(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn wait(service: &mut LeaseService, session_id: i64) -> Event<'static> {
        let wait = Wait { session_id, correlation_id: 9, lease_slot: 0 };
        register(&mut service.waiters, wait, 32, 3)
    }

    /// Creates a service with a lease with two waiters, and one that is only pinned.
    fn service() -> LeaseService {
        let mut service = LeaseService::new(settings()).unwrap();
        service.table.on_new_term(1_000, TimeUnit::Millis);
        let (application, unit) = ("db", "db/0");
        let process = Process { id: 3, started_ms: 4, name: "pid 5" };
        let claim =
            Request::Claim { correlation_id: 1, duration_ns: 5_000_000_000, application, unit, process };
        service.table.apply(32, &claim);
        service.table.apply(64, &Request::Pin { correlation_id: 1, application: "next", entity: "m" });
        for session_id in [7, 8] {
            let event = wait(&mut service, session_id);
            assert!(matches!(event, Event::Answer(Answer { code: AnswerCode::Waiting, .. })));
        }
        service
    }

    #[test]
    fn a_snapshot_has_the_waiters_and_equal_bytes() {
        let service = service();
        let records = state(&service);
        let mut again = restored(settings(), &records).unwrap();
        assert_eq!((state(&again), again.waiter_count()), (records, 2));
        // Spec 05: no wake-up is lost.
        let woken: Vec<i64> =
            std::iter::from_fn(|| again.waiters.pop(0)).map(|waiter| waiter.session_id).collect();
        assert_eq!(woken.len(), 2);
    }

    #[test]
    fn one_waiter_too_many_names_the_limit() {
        let mut service = service();
        wait(&mut service, 9);
        wait(&mut service, 9);
        let Event::Answer(answer) = wait(&mut service, 10) else { panic!() };
        assert_eq!(
            (answer.code, answer.limit, answer.detail),
            (AnswerCode::TooManyWaiters, 3, "max_waiters")
        );
        assert_eq!(service.waiter_count(), 3);
    }

    #[test]
    fn a_snapshot_that_is_newer_cut_or_impossible_is_refused() {
        let records = state(&service());
        for length in 0..records.len() {
            let error = restored(settings(), &records[..length]).err().unwrap();
            assert!(error.contains("cut short"), "{error}");
        }
        let mut newer = records.clone();
        newer[0][6] = 3;
        let error = restored(settings(), &newer).err().unwrap();
        assert!(error.contains("version 3 instead of 2"), "{error}");
        let few = LeaseSettings { max_waiters: 1, ..settings() };
        let error = restored(few, &records).err().unwrap();
        assert!(error.contains("2 waiters") && error.contains("max_waiters=1"), "{error}");
        // The waiter waits for a lease that nobody holds, or that does not exist.
        let at = records.len() - 2;
        for lease_slot in [1, 3, -1] {
            let mut bad = records.clone();
            bad[at] = encoded(&Record::Waiter { session_id: 8, correlation_id: 9, lease_slot, index: 1 });
            assert!(restored(settings(), &bad).is_err(), "{lease_slot}");
        }
        // The same waiter appears twice.
        let mut bad = records.clone();
        bad[at] = encoded(&Record::Waiter { session_id: 7, correlation_id: 9, lease_slot: 0, index: 1 });
        assert!(restored(settings(), &bad).err().unwrap().contains("already"));
        // A copy that only judges fences has no waiters.
        let mut table = LeaseTable::new(settings()).unwrap();
        let records = records.iter().map(Vec::as_slice);
        assert!(stored::read_records(records, &mut table, None).is_err());
    }
}
