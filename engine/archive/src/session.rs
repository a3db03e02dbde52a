//! Control session of one client (spec 03 §2.5).

use std::collections::VecDeque;

use harrier_client::{Aeron, Counter, ExclusivePublication};
use harrier_protocol::semantic_version_major;
use harrier_ringbuf::append::OfferError;

use crate::auth::{Authenticator, Verdict};
use crate::codec::{ArchiveErrorCode, ControlCode, PROTOCOL_VERSION, Response, Signal};

/// Buffer size of a ping, bytes; preallocated because the clock triggers pings.
const PING_CAPACITY: usize = 64;
/// Time between two sends of the same answer, ns.
const RESEND_INTERVAL_NS: i64 = 200_000_000;
/// Maximum number of queued answers.
const MAX_QUEUED: usize = 8_192;

/// State of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionState {
    Init,
    Connecting,
    Connected,
    Challenged,
    Authenticated,
    Active,
    Rejected,
    Done,
}

/// Remaining part of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) correlation_id: i64,
    pub(crate) next_recording_id: i64,
    pub(crate) remaining: i32,
    pub(crate) filter: Option<(i32, String)>,
}

/// A control session.
pub(crate) struct ControlSession {
    pub(crate) id: i64,
    pub(crate) state: SessionState,
    pub(crate) listing: Option<Listing>,
    /// Image of the client's requests. Only this image may use the session.
    pub(crate) image_correlation_id: i64,
    /// Reason why the archive ended the session; `None` when the client or its streams ended it.
    pub(crate) abort_reason: Option<String>,
    /// Image of the client's requests until its whole log has been allocated.
    pub(crate) image_to_allocate: Option<i64>,
    correlation_id: i64,
    client_version: i32,
    credentials: Vec<u8>,
    has_answer: bool,
    publication_id: i64,
    counter_id: i64,
    publication: Option<ExclusivePublication>,
    counter: Option<Counter>,
    queue: VecDeque<Vec<u8>>,
    deadline_ns: Option<i64>,
    next_resend_ns: i64,
    next_ping_ns: i64,
    connect_timeout_ns: i64,
    ping_interval_ns: i64,
    /// True when an answer or ping was sent, or was refused, since the deadline was last set.
    was_sent: bool,
    was_refused: bool,
}

/// Parameters of a new session.
pub(crate) struct SessionSetup {
    pub(crate) id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) client_version: i32,
    pub(crate) credentials: Vec<u8>,
    pub(crate) image_correlation_id: i64,
    pub(crate) publication_id: i64,
    pub(crate) counter_id: i64,
    pub(crate) connect_timeout_ns: i64,
    pub(crate) ping_interval_ns: i64,
}

impl ControlSession {
    pub(crate) fn new(setup: SessionSetup, now_ns: i64) -> Self {
        Self {
            id: setup.id,
            state: SessionState::Init,
            listing: None,
            image_correlation_id: setup.image_correlation_id,
            abort_reason: None,
            image_to_allocate: Some(setup.image_correlation_id),
            correlation_id: setup.correlation_id,
            client_version: setup.client_version,
            credentials: setup.credentials,
            has_answer: false,
            publication_id: setup.publication_id,
            counter_id: setup.counter_id,
            publication: None,
            counter: None,
            queue: VecDeque::new(),
            deadline_ns: Some(now_ns + setup.connect_timeout_ns),
            next_resend_ns: now_ns,
            next_ping_ns: now_ns + setup.ping_interval_ns,
            connect_timeout_ns: setup.connect_timeout_ns,
            ping_interval_ns: setup.ping_interval_ns,
            was_sent: false,
            was_refused: false,
        }
    }

    /// Advances the session.
    pub(crate) fn do_work(&mut self, aeron: &mut Aeron, authenticator: &Authenticator, now_ns: i64) -> usize {
        if self.deadline_ns.is_some_and(|deadline_ns| now_ns > deadline_ns) {
            if self.state == SessionState::Active {
                let timeout_ms = self.connect_timeout_ns / 1_000_000;
                self.abort_reason =
                    Some(format!("failed to send response for more than connectTimeoutMs={timeout_ms}"));
            }
            self.state = SessionState::Done;
            return 1;
        }
        match self.state {
            SessionState::Init => self.await_resources(aeron, now_ns),
            SessionState::Connecting => {
                let is_connected = self.publication.as_ref().is_some_and(|entry| entry.is_connected());
                if is_connected {
                    self.state = SessionState::Connected;
                }
                usize::from(is_connected)
            }
            SessionState::Connected if now_ns >= self.next_resend_ns => {
                self.next_resend_ns = now_ns + RESEND_INTERVAL_NS;
                self.on_connected(authenticator, now_ns);
                1
            }
            SessionState::Challenged if std::mem::take(&mut self.has_answer) => {
                let verdict = authenticator.on_challenge_response(&self.credentials);
                self.on_verdict(&verdict, now_ns);
                1
            }
            SessionState::Authenticated if now_ns > self.next_resend_ns => {
                self.next_resend_ns = now_ns + RESEND_INTERVAL_NS;
                self.try_send_ok();
                1
            }
            SessionState::Rejected if now_ns >= self.next_resend_ns => {
                self.next_resend_ns = now_ns + RESEND_INTERVAL_NS;
                let code = ArchiveErrorCode::AuthenticationRejected as i64;
                self.try_send(&self.control(
                    self.correlation_id,
                    code,
                    ControlCode::Error,
                    "authentication rejected",
                ));
                1
            }
            SessionState::Active => self.serve(now_ns),
            _ => 0,
        }
    }

    fn await_resources(&mut self, aeron: &mut Aeron, now_ns: i64) -> usize {
        if self.publication.is_none() {
            match aeron.exclusive_publication(self.publication_id) {
                Ok(publication) => self.publication = publication,
                Err(_) => self.state = SessionState::Done,
            }
        }
        if self.counter.is_none() {
            match aeron.counter(self.counter_id) {
                Ok(counter) => self.counter = counter,
                Err(_) => self.state = SessionState::Done,
            }
        }
        if self.publication.is_none() || self.counter.is_none() {
            return 0;
        }
        if let (Some(counter), Some(publication)) = (&self.counter, &self.publication) {
            counter.set_ordered(self.id);
            aeron.counters().set_reference_id(counter.counter_id(), publication.registration_id());
        }
        self.state = SessionState::Connecting;
        self.deadline_ns = Some(now_ns + self.connect_timeout_ns);
        1
    }

    fn on_connected(&mut self, authenticator: &Authenticator, now_ns: i64) {
        if semantic_version_major(self.client_version) != semantic_version_major(PROTOCOL_VERSION) {
            let message = format!(
                "invalid client version {}.{}.{}, archive speaks 1.x",
                self.client_version >> 16,
                (self.client_version >> 8) & 0xFF,
                self.client_version & 0xFF
            );
            let bytes = self.control(self.correlation_id, self.id, ControlCode::Error, &message);
            self.try_send(&bytes);
            return;
        }
        let verdict = authenticator.on_connect(&self.credentials);
        self.on_verdict(&verdict, now_ns);
    }

    fn on_verdict(&mut self, verdict: &Verdict, now_ns: i64) {
        match verdict {
            Verdict::Authenticated => {
                if self.try_send_ok() {
                    self.state = SessionState::Authenticated;
                    self.deadline_ns = None;
                    self.next_resend_ns = now_ns + RESEND_INTERVAL_NS;
                } else {
                    self.has_answer = true;
                }
            }
            Verdict::Challenged(challenge) => {
                let response = Response::Challenge {
                    control_session_id: self.id,
                    correlation_id: self.correlation_id,
                    version: 0,
                    challenge,
                };
                let bytes = encode(&response);
                if self.try_send(&bytes) {
                    self.state = SessionState::Challenged;
                }
            }
            Verdict::Rejected => {
                self.state = SessionState::Rejected;
                self.next_resend_ns = now_ns;
            }
        }
    }

    pub(crate) fn on_challenge_response(&mut self, correlation_id: i64, credentials: &[u8]) {
        if self.state == SessionState::Challenged {
            self.correlation_id = correlation_id;
            self.credentials = credentials.to_vec();
            self.has_answer = true;
        }
    }

    /// True when the session accepts requests; the first one activates the session.
    pub(crate) fn accept_request(&mut self) -> bool {
        if self.state == SessionState::Authenticated {
            self.state = SessionState::Active;
        }
        self.state == SessionState::Active
    }

    fn serve(&mut self, now_ns: i64) -> usize {
        if !self.publication.as_ref().is_some_and(|entry| entry.is_connected()) {
            self.state = SessionState::Done;
            return 1;
        }
        let mut work_count = 0;
        while let Some(bytes) = self.queue.pop_front() {
            if !self.offer(&bytes) {
                self.queue.push_front(bytes);
                break;
            }
            work_count += 1;
        }
        if now_ns > self.next_ping_ns {
            self.next_ping_ns = now_ns + self.ping_interval_ns;
            let mut bytes = [0; PING_CAPACITY];
            if let Ok(length) = (Response::Ping { control_session_id: self.id }).encode(&mut bytes) {
                self.try_send(&bytes[..length]);
            }
        }
        self.set_deadline(now_ns);
        work_count
    }

    /// Limits the time in which nothing can be sent (spec 03 §2.5).
    fn set_deadline(&mut self, now_ns: i64) {
        if std::mem::take(&mut self.was_sent) {
            self.deadline_ns = None;
        }
        if std::mem::take(&mut self.was_refused) && self.deadline_ns.is_none() {
            self.deadline_ns = Some(now_ns + self.connect_timeout_ns);
        }
    }

    /// True while no answer is queued, so that a listing may continue.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.is_empty()
    }

    fn try_send_ok(&mut self) -> bool {
        let bytes = self.control(self.correlation_id, self.id, ControlCode::Ok, "");
        self.try_send(&bytes)
    }

    fn control(&self, correlation_id: i64, relevant_id: i64, code: ControlCode, message: &str) -> Vec<u8> {
        encode(&Response::Control {
            control_session_id: self.id,
            correlation_id,
            relevant_id,
            code,
            version: PROTOCOL_VERSION,
            message,
        })
    }

    pub(crate) fn send_ok(&mut self, correlation_id: i64, relevant_id: i64) {
        let bytes = self.control(correlation_id, relevant_id, ControlCode::Ok, "");
        self.send(bytes);
    }

    pub(crate) fn send_error(&mut self, correlation_id: i64, code: ArchiveErrorCode, message: &str) {
        let bytes = self.control(correlation_id, code as i64, ControlCode::Error, message);
        self.send(bytes);
    }

    pub(crate) fn send_unknown(&mut self, correlation_id: i64, relevant_id: i64, code: ControlCode) {
        let bytes = self.control(correlation_id, relevant_id, code, "");
        self.send(bytes);
    }

    pub(crate) fn send_response(&mut self, response: &Response<'_>) {
        self.send(encode(response));
    }

    pub(crate) fn send_signal(
        &mut self,
        correlation_id: i64,
        recording_id: i64,
        subscription_id: i64,
        position: i64,
        signal: Signal,
    ) {
        let control_session_id = self.id;
        self.send(encode(&Response::Signal {
            control_session_id,
            correlation_id,
            recording_id,
            subscription_id,
            position,
            signal,
        }));
    }

    /// Sends an answer or queues it behind earlier ones.
    fn send(&mut self, bytes: Vec<u8>) {
        if self.queue.is_empty() && self.offer(&bytes) {
            return;
        }
        if self.queue.len() >= MAX_QUEUED {
            self.abort_reason = Some(format!("more than {MAX_QUEUED} responses are queued"));
            self.state = SessionState::Done;
            return;
        }
        self.queue.push_back(bytes);
    }

    fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.queue.is_empty() && self.offer(bytes)
    }

    fn offer(&mut self, bytes: &[u8]) -> bool {
        let Some(publication) = &mut self.publication else { return false };
        for _ in 0..3 {
            match publication.offer(bytes) {
                Ok(_) => {
                    self.was_sent = true;
                    return true;
                }
                Err(OfferError::AdminAction) => {}
                Err(OfferError::BackPressured) => break,
                Err(_) => {
                    self.state = SessionState::Done;
                    return false;
                }
            }
        }
        self.was_refused = true;
        false
    }

    /// Closes the session's streams immediately.
    pub(crate) fn close(&mut self) {
        if let Some(publication) = &mut self.publication {
            publication.revoke_on_close();
        }
        self.publication = None;
        self.counter = None;
    }
}

fn encode(response: &Response<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    match response.encode(&mut bytes) {
        Ok(length) => bytes.truncate(length),
        Err(harrier_protocol::sbe::SbeError::BufferTooSmall { required, .. }) => {
            bytes = vec![0; required];
            let written = response.encode(&mut bytes);
            assert!(written.is_ok(), "the length needed was told");
        }
        Err(error) => unreachable!("an answer is always encodable: {error}"),
    }
    bytes
}
