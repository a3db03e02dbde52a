//! Client of the lease service for duty cycles. No call blocks: requests are started, then polled.

mod listing;
mod predecessor;
mod requests;
mod tenures;
#[cfg(test)]
mod tests;

pub use listing::{LeaseInfo, Leases, PinInfo};
pub use tenures::Tenures;

use harrier_client::Aeron;
use harrier_cluster::client::{
    ClientState, ClusterClient, ClusterClientContext, ClusterClientError, EgressListener,
};
use harrier_cluster::codec::EventCode;
use harrier_ringbuf::Now;

use crate::claimer::{Fence, PolledClaimer, ProcessIdentity, RequestId, Tenure};
use crate::codec::{AnswerCode, Event, Request, is_ours};
use crate::errors::{BlockError, CheckError, ClaimError, HeldUnit, PinError, ReleaseError, Unanswered};
use crate::names::{InvalidInput, check_name};
use predecessor::Predecessor;
use requests::{Done, Kind, MAX_REQUESTS, Offered, Pace, Requests};

/// Settings of a lease client. Times are ns.
#[derive(Debug, Clone)]
pub struct LeaseClientContext {
    /// Settings of the session with the cluster.
    pub cluster: ClusterClientContext,
    /// Process that this client claims for (spec 05 L23). [`ProcessIdentity::UNNAMED`] by default; a blocking client
    /// then names its own process.
    pub process: ProcessIdentity,
    /// Longest wait for an answer.
    pub timeout_ns: i64,
    /// Longest wait for the answer to a claim. `None` means [`timeout_ns`](Self::timeout_ns), or half of the claimed
    /// duration if that is longer: a holder that renews at half time then survives the longest possible change of
    /// leader.
    pub claim_timeout_ns: Option<i64>,
    /// Longest time without a sign of the service after which a wait for release fails.
    pub unreachable_timeout_ns: i64,
    /// Time after which an unanswered request is sent again.
    pub resend_ns: i64,
    /// Time after which a wait for release is registered again, in case its wake-up was lost.
    pub rewait_ns: i64,
    /// Time between the end of a session and the attempt to open the next one.
    pub reconnect_ns: i64,
    /// Limit of requests under way, up to 1,048,576.
    pub max_requests: usize,
    /// Shortest duration of a claim; as the service has it.
    pub min_duration_ns: i64,
    /// Longest duration of a claim; as the service has it.
    pub max_duration_ns: i64,
}

impl LeaseClientContext {
    /// Default settings.
    pub fn new(cluster: ClusterClientContext) -> Self {
        Self {
            cluster,
            process: ProcessIdentity::UNNAMED,
            timeout_ns: 5_000_000_000,
            claim_timeout_ns: None,
            unreachable_timeout_ns: 30_000_000_000,
            resend_ns: 1_000_000_000,
            rewait_ns: 10_000_000_000,
            reconnect_ns: 100_000_000,
            max_requests: 1_024,
            min_duration_ns: 1_000_000,
            max_duration_ns: 24 * 3_600 * 1_000_000_000,
        }
    }
}

/// A client of the lease service. Call [`do_work`](Self::do_work) in a duty cycle; it opens a session with the cluster,
/// and the next one when that has ended. Requests survive changes of leader and of session.
pub struct LeaseClient {
    context: LeaseClientContext,
    requests: Requests,
    tenures: Tenures,
    session: Option<ClusterClient>,
    /// Session and term that requests were sent to.
    known: (i64, i64),
    predecessor: Predecessor,
    /// True once a request was sent in this session.
    is_used: bool,
    reconnect_at_ns: i64,
    reason: String,
    now_ns: i64,
    is_closed: bool,
}

impl LeaseClient {
    /// A client without a session yet.
    ///
    /// # Errors
    /// Invalid setting.
    pub fn new(context: LeaseClientContext) -> Result<Self, ClusterClientError> {
        if !(1..=MAX_REQUESTS).contains(&context.max_requests) {
            let setting = format!("max_requests={}", context.max_requests);
            return Err(ClusterClientError::Setting { setting, rule: "must be from 1 to 1048576" });
        }
        let session = ClusterClient::new(context.cluster.clone())?;
        let pace = Pace { resend_ns: context.resend_ns, rewait_ns: context.rewait_ns };
        Ok(Self {
            requests: Requests::new(context.max_requests, pace),
            predecessor: Predecessor::new(context.resend_ns),
            context,
            tenures: Tenures::default(),
            session: Some(session),
            known: (-1, -1),
            is_used: false,
            reconnect_at_ns: i64::MIN,
            reason: "it is being opened".into(),
            now_ns: 0,
            is_closed: false,
        })
    }

    /// Opens a session, sends requests and takes answers; returns the work done. The caller drives `aeron`.
    pub fn do_work(&mut self, aeron: &mut Aeron, now: &Now) -> usize {
        self.do_work_with(aeron, now, &mut |_: i64, _: i64, _: &[u8]| ())
    }

    /// Like [`do_work`](Self::do_work), for a session with other uses. Egress that does not answer this client goes to
    /// `listener`, and so do [`FenceStale`](Event::FenceStale) messages.
    pub fn do_work_with(
        &mut self,
        aeron: &mut Aeron,
        now: &Now,
        listener: &mut impl EgressListener,
    ) -> usize {
        self.now_ns = now.ns;
        if self.is_closed {
            return 0;
        }
        let mut work_count = self.poll_session(aeron, now, listener);
        if let Some(session) = self.session.as_mut().filter(|session| session.is_connected()) {
            let known = (session.session_id(), session.leadership_term_id());
            if known != self.known {
                self.known = known;
                self.requests.on_new_leader();
                self.predecessor.on_session(known.0);
            }
            let mut offer = |message: &[u8]| match session.offer(message) {
                Ok(_) => Offered::Sent,
                Err(_) => Offered::Later,
            };
            work_count += if self.predecessor.has_ended() {
                let sent = self.requests.send(now.ns, &mut offer);
                self.is_used |= sent > 0;
                sent
            } else {
                self.predecessor.send(now.ns, &mut offer)
            };
        }
        self.requests.tick(now.ns, &self.reason);
        work_count
    }

    fn poll_session(&mut self, aeron: &mut Aeron, now: &Now, listener: &mut impl EgressListener) -> usize {
        let Some(session) = &mut self.session else {
            if now.ns >= self.reconnect_at_ns {
                self.session = ClusterClient::new(self.context.cluster.clone()).ok();
            }
            return 0;
        };
        let mut ears = Ears {
            requests: &mut self.requests,
            predecessor: &mut self.predecessor,
            now_ns: now.ns,
            listener,
        };
        match session.poll(aeron, now, &mut ears) {
            Ok(work_count) => work_count,
            Err(error) => {
                self.reason = error.to_string();
                session.close();
                self.on_session_lost(now.ns.saturating_add(self.context.reconnect_ns));
                1
            }
        }
    }

    /// Time at which the client has work even if no message arrives, monotonic ns.
    pub fn next_deadline(&self) -> Option<i64> {
        let pause_ns = if self.requests.is_busy() || self.state() != ClientState::Connected {
            5_000_000
        } else {
            50_000_000
        };
        (!self.is_closed).then(|| self.now_ns.saturating_add(pause_ns))
    }

    /// State of the session.
    pub fn state(&self) -> ClientState {
        match &self.session {
            Some(session) => session.state(),
            None if self.is_closed => ClientState::Closed,
            None => ClientState::Connecting,
        }
    }

    /// True while there is a session with a leader.
    pub fn is_connected(&self) -> bool {
        self.state() == ClientState::Connected
    }

    /// The session, for messages to other services of the cluster.
    pub fn session(&mut self) -> Option<&mut ClusterClient> {
        self.session.as_mut()
    }

    /// Reason why there is no session, or why there was none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The media driver is gone, and the session with it. The next call of [`do_work`](Self::do_work) opens another
    /// one, with the client of a driver that it is given then.
    pub fn on_driver_lost(&mut self, reason: impl Into<String>) {
        self.reason = reason.into();
        self.on_session_lost(self.now_ns);
    }

    fn on_session_lost(&mut self, reconnect_at_ns: i64) {
        self.session = None;
        self.reconnect_at_ns = reconnect_at_ns;
        if std::mem::take(&mut self.is_used) {
            self.predecessor.on_session_lost(self.known.0);
        }
    }

    /// Settings of the client.
    pub fn context(&self) -> &LeaseClientContext {
        &self.context
    }

    /// Expires requests while there is no driver. See [`on_driver_lost`](Self::on_driver_lost).
    pub fn tick(&mut self, now: &Now) {
        self.now_ns = now.ns;
        self.requests.tick(now.ns, &self.reason);
    }

    /// True once the client was closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Ends the session; requests under way end with [`Unanswered::Closed`].
    pub fn close(&mut self) {
        self.is_closed = true;
        if let Some(mut session) = self.session.take() {
            session.close();
        }
        self.requests.close();
    }

    fn begin(
        &mut self,
        kind: Kind,
        request: &Request<'_>,
        now_ns: i64,
        timeout_ns: i64,
    ) -> Result<RequestId, Unanswered> {
        if self.is_closed {
            return Err(Unanswered::Closed);
        }
        self.now_ns = self.now_ns.max(now_ns);
        self.requests.begin(kind, request, now_ns, timeout_ns)
    }

    /// Begins a check of a unit's leadership (spec 05 L9).
    ///
    /// # Errors
    /// Errors that are known before anything is sent, see [`CheckError`].
    pub fn start_check(
        &mut self,
        application: &str,
        unit: &str,
        now_ns: i64,
    ) -> Result<RequestId, CheckError> {
        check_name("application", application)?;
        check_name("unit", unit)?;
        let request = Request::Check { correlation_id: 0, application, unit };
        Ok(self.begin(Kind::Once, &request, now_ns, self.context.timeout_ns)?)
    }

    /// Polls the answer to a check. On success the fence of the present tenure is copied to `out`.
    pub fn poll_check(&mut self, id: RequestId, out: Option<&mut Fence>) -> Option<Result<(), CheckError>> {
        let tenures = &mut self.tenures;
        self.requests.take(id, |message, _, done, _| match (done, Request::decode(message)) {
            (
                Done::Answer { code: AnswerCode::Held, token, .. },
                Ok(Request::Check { application, unit, .. }),
            ) => {
                copy_fence(application, unit, token, out);
                Ok(())
            }
            (Done::Answer { .. }, Ok(Request::Check { application, unit, .. })) => {
                tenures.remove(application, unit);
                Err(CheckError::NotHeld)
            }
            (done, _) => Err(unanswered(done).into()),
        })
    }

    /// Checks leadership from this client's own claims, without a round trip. A unit that does not lead for certain at
    /// `now_ns` counts as not leading (spec 05 L9).
    ///
    /// # Errors
    /// [`CheckError::NotHeld`].
    pub fn check_local(
        &self,
        application: &str,
        unit: &str,
        now_ns: i64,
        out: Option<&mut Fence>,
    ) -> Result<(), CheckError> {
        let tenure = self.tenures.get(application, unit, now_ns).ok_or(CheckError::NotHeld)?;
        copy_fence(application, unit, tenure.token, out);
        Ok(())
    }

    /// Begins to pin an application's lease: it does not expire while one entity pins it.
    ///
    /// # Errors
    /// Errors that are known before anything is sent, see [`PinError`].
    pub fn start_pin(&mut self, application: &str, entity: &str, now_ns: i64) -> Result<RequestId, PinError> {
        check_name("application", application)?;
        check_name("entity", entity)?;
        let request = Request::Pin { correlation_id: 0, application, entity };
        Ok(self.begin(Kind::Once, &request, now_ns, self.context.timeout_ns)?)
    }

    /// Begins to remove a pin.
    ///
    /// # Errors
    /// Errors that are known before anything is sent, see [`PinError`].
    pub fn start_unpin(
        &mut self,
        application: &str,
        entity: &str,
        now_ns: i64,
    ) -> Result<RequestId, PinError> {
        check_name("application", application)?;
        check_name("entity", entity)?;
        let request = Request::Unpin { correlation_id: 0, application, entity };
        Ok(self.begin(Kind::Once, &request, now_ns, self.context.timeout_ns)?)
    }

    /// Polls the answer to a pin or to its removal.
    pub fn poll_pin(&mut self, id: RequestId) -> Option<Result<(), PinError>> {
        self.requests.take(id, |_, _, done, _| match done {
            Done::Answer { code: AnswerCode::Pinned | AnswerCode::Unpinned, .. } => Ok(()),
            Done::Answer { code: AnswerCode::TooManyPins, limit, .. } => Err(PinError::TooManyPins { limit }),
            Done::Answer { code: AnswerCode::TooManyLeases, limit, .. } => {
                Err(PinError::TooManyLeases { limit })
            }
            done => Err(unanswered(done).into()),
        })
    }

    /// Begins to list all pins.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub fn start_pinned(&mut self, now_ns: i64) -> Result<RequestId, Unanswered> {
        let request = Request::Pinned { correlation_id: 0, cursor: 0 };
        self.begin(Kind::Pinned, &request, now_ns, self.context.timeout_ns)
    }

    /// Polls the list of all pins.
    pub fn poll_pinned(&mut self, id: RequestId) -> Option<Result<Vec<PinInfo>, Unanswered>> {
        self.requests.take(id, |_, _, done, listing| match (done, listing) {
            (Done::Listed, Some(listing)) => Ok(listing.pins),
            (done, _) => Err(unanswered(done)),
        })
    }

    /// Begins to list all leases.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub fn start_list(&mut self, now_ns: i64) -> Result<RequestId, Unanswered> {
        let request = Request::List { correlation_id: 0, cursor: 0 };
        self.begin(Kind::List, &request, now_ns, self.context.timeout_ns)
    }

    /// Polls the list of all leases.
    pub fn poll_list(&mut self, id: RequestId) -> Option<Result<Leases, Unanswered>> {
        self.requests.take(id, |_, _, done, listing| match (done, listing) {
            (Done::Listed, Some(listing)) => Ok(listing.leases),
            (done, _) => Err(unanswered(done)),
        })
    }
}

fn copy_fence(application: &str, unit: &str, token: u64, out: Option<&mut Fence>) {
    if let Some(fence) = out {
        fence.application.clear();
        fence.application.push_str(application);
        fence.unit.clear();
        fence.unit.push_str(unit);
        fence.token = token;
    }
}

fn unanswered(done: Done) -> Unanswered {
    match done {
        Done::Unanswered(unanswered) => unanswered,
        other => Unanswered::Refused(format!("{other:?} is no answer to this request")),
    }
}

impl PolledClaimer for LeaseClient {
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        now_ns: i64,
    ) -> Result<RequestId, ClaimError> {
        check_name("application", application)?;
        check_name("unit", unit)?;
        let field = "duration";
        if duration_ns < self.context.min_duration_ns {
            return Err(InvalidInput { field, rule: "must not be shorter than min_duration_ns" }.into());
        }
        if duration_ns > self.context.max_duration_ns {
            return Err(InvalidInput { field, rule: "must not be longer than max_duration_ns" }.into());
        }
        if self.is_closed {
            return Err(Unanswered::Closed.into());
        }
        self.now_ns = self.now_ns.max(now_ns);
        let process = self.context.process.as_process();
        let request = Request::Claim { correlation_id: 0, duration_ns, application, unit, process };
        let timeout_ns = self.context.timeout_ns.max(duration_ns / 2);
        let timeout_ns = self.context.claim_timeout_ns.unwrap_or(timeout_ns);
        Ok(self.requests.begin(Kind::Claim, &request, now_ns, timeout_ns)?)
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        let tenures = &mut self.tenures;
        self.requests.take(id, |message, started_ns, done, _| {
            let Ok(Request::Claim { duration_ns, application, unit, .. }) = Request::decode(message) else {
                return Err(unanswered(done).into());
            };
            match done {
                Done::Answer { code: AnswerCode::Granted, token, .. } => {
                    let guaranteed_until_ns = started_ns.saturating_add(duration_ns);
                    let tenure = Tenure { token, guaranteed_until_ns };
                    tenures.put(application, unit, tenure);
                    Ok(tenure)
                }
                Done::Answer { code: AnswerCode::Denied, .. } => {
                    tenures.remove(application, unit);
                    Err(ClaimError::Denied)
                }
                Done::UnitHeld { holder, claimed } => {
                    tenures.remove(application, unit);
                    Err(ClaimError::UnitHeld(Box::new(HeldUnit { unit: unit.to_owned(), holder, claimed })))
                }
                Done::Answer { code: AnswerCode::TooManyLeases, limit, .. } => {
                    Err(ClaimError::TooManyLeases { limit })
                }
                done => Err(unanswered(done).into()),
            }
        })
    }

    fn start_block(&mut self, application: &str, now_ns: i64) -> Result<RequestId, BlockError> {
        check_name("application", application)?;
        let request = Request::Wait { correlation_id: 0, token: 0, application };
        Ok(self.begin(Kind::Wait, &request, now_ns, self.context.unreachable_timeout_ns)?)
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        self.requests.take(id, |_, _, done, _| match done {
            Done::Over => Ok(()),
            Done::Answer { code: AnswerCode::TooManyWaiters, limit, .. } => {
                Err(BlockError::TooManyWaiters { limit })
            }
            done => Err(unanswered(done).into()),
        })
    }

    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        now_ns: i64,
    ) -> Result<RequestId, ReleaseError> {
        check_name("application", application)?;
        check_name("unit", unit)?;
        // From here on the unit must not lead.
        self.tenures.release(application, unit, token);
        let request = Request::Release { correlation_id: 0, token, application, unit };
        Ok(self.begin(Kind::Once, &request, now_ns, self.context.timeout_ns)?)
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        self.requests.take(id, |_, _, done, _| match done {
            Done::Answer { code: AnswerCode::Released, .. } => Ok(()),
            Done::Answer { code: AnswerCode::Stale, token, .. } => {
                Err(ReleaseError::Stale { current: token })
            }
            done => Err(unanswered(done).into()),
        })
    }

    fn cancel(&mut self, id: RequestId) {
        self.requests.cancel(id, self.now_ns, self.context.timeout_ns);
    }
}

/// Routes answers to this client's requests and every other message to the listener.
struct Ears<'a, L> {
    requests: &'a mut Requests,
    predecessor: &'a mut Predecessor,
    now_ns: i64,
    listener: &'a mut L,
}

impl<L: EgressListener> EgressListener for Ears<'_, L> {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        match Event::decode(message) {
            Ok(Event::FenceStale { .. }) => self.listener.on_message(session_id, timestamp, message),
            Ok(Event::Answer(answer)) if self.predecessor.is_asked_by(answer.correlation_id) => {
                self.predecessor.on_answer(answer.code, self.now_ns);
            }
            Ok(event) => self.requests.on_event(&event, self.now_ns),
            Err(_) if is_ours(message) => {}
            Err(_) => self.listener.on_message(session_id, timestamp, message),
        }
    }

    fn on_new_leader(&mut self, leadership_term_id: i64, leader_member_id: i32, ingress_endpoints: &str) {
        self.listener.on_new_leader(leadership_term_id, leader_member_id, ingress_endpoints);
    }

    fn on_session_event(&mut self, code: EventCode, detail: &str) {
        self.listener.on_session_event(code, detail);
    }

    fn on_admin_response(&mut self, correlation_id: i64, request_type: i32, code: i32, message: &str) {
        self.listener.on_admin_response(correlation_id, request_type, code, message);
    }
}
