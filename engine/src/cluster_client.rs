//! Blocking cluster client: each call returns once its request is complete.

use std::path::PathBuf;

use harrier_client::{Aeron, ClientError, Context};
use harrier_cluster::client::{
    ClientState, ClusterClient, ClusterClientContext, ClusterClientError, EgressListener,
};
use harrier_cluster::codec::EventCode;
use harrier_platform::{MappedMemory, SystemClock};
use harrier_ringbuf::Clock;
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use thiserror::Error;

/// Errors of a blocking call.
#[derive(Debug, Error)]
pub enum BlockingClientError {
    /// Error of the cluster client.
    #[error(transparent)]
    Cluster(#[from] ClusterClientError),
    /// Error of the media driver's client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A call timed out.
    #[error("timed out after {timeout_ns} ns {what}; the client is {state:?}")]
    Timeout {
        /// The message timeout.
        timeout_ns: i64,
        /// Event that was awaited.
        what: &'static str,
        /// State of the client.
        state: ClientState,
    },
    /// The cluster did not take a snapshot.
    #[error("the cluster took no snapshot: {0}")]
    NoSnapshot(String),
}

/// A session with a cluster whose calls block, with its own client of a media driver.
///
/// Egress is read only during calls. Call [`poll`](Self::poll) more often than the session timeout to keep the session
/// alive. Programs with their own duty cycle use [`ClusterClient`], which never blocks.
///
/// ```no_run
/// use harrier::BlockingClusterClient;
/// use harrier::cluster::client::ClusterClientContext;
///
/// let context = ClusterClientContext::new("0=localhost:20110", "aeron:udp?endpoint=localhost:0");
/// let mut client = BlockingClusterClient::connect("/dev/shm/aeron-client", context).unwrap();
/// let mut answers = Vec::new();
/// let mut listener = |_session: i64, _timestamp: i64, message: &[u8]| answers.push(message.to_vec());
/// client.offer(b"hello", &mut listener).unwrap();
/// client.poll(&mut listener).unwrap();
/// client.close();
/// ```
pub struct BlockingClusterClient {
    aeron: Aeron,
    client: ClusterClient,
    idle: IdleStrategy,
    timeout_ns: i64,
}

/// Passes egress to the caller's listener and keeps the answer to one request.
struct WithAnswer<'a, L> {
    listener: &'a mut L,
    correlation_id: i64,
    answer: Option<(i32, String)>,
}

impl<L: EgressListener> EgressListener for WithAnswer<'_, L> {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        self.listener.on_message(session_id, timestamp, message);
    }

    fn on_new_leader(&mut self, leadership_term_id: i64, leader_member_id: i32, ingress_endpoints: &str) {
        self.listener.on_new_leader(leadership_term_id, leader_member_id, ingress_endpoints);
    }

    fn on_session_event(&mut self, code: EventCode, detail: &str) {
        self.listener.on_session_event(code, detail);
    }

    fn on_admin_response(&mut self, correlation_id: i64, request_type: i32, code: i32, message: &str) {
        if correlation_id == self.correlation_id {
            self.answer = Some((code, message.to_owned()));
        }
        self.listener.on_admin_response(correlation_id, request_type, code, message);
    }
}

impl BlockingClusterClient {
    /// Waits for the media driver in a directory, and for a session with the cluster.
    ///
    /// # Errors
    /// See [`BlockingClientError`].
    pub fn connect(
        aeron_directory: impl Into<PathBuf>,
        context: ClusterClientContext,
    ) -> Result<Self, BlockingClientError> {
        let timeout_ns = context.message_timeout_ns;
        // 1 µs is Aeron's default rest between polls (spec 04 §9.3).
        let mut idle = IdleStrategy::Backoff(Backoff::new(1, 10, 1_000, 1_000));
        let client = ClusterClient::new(context.clone())?;
        let driver = Context::new(aeron_directory).client_name(&context.client_name);
        let deadline_ns = SystemClock.now().ns.saturating_add(timeout_ns);
        let aeron = loop {
            let now = SystemClock.now();
            match Aeron::connect(driver.clone(), MappedMemory, &now) {
                Err(ClientError::NotReady { .. }) if now.ns <= deadline_ns => idle.idle(0),
                outcome => break outcome?,
            }
        };
        let mut session = Self { aeron, client, idle, timeout_ns };
        while !session.client.is_connected() {
            let work_count = session.poll(&mut |_: i64, _: i64, _: &[u8]| ())?;
            session.idle.idle(work_count);
        }
        Ok(session)
    }

    /// Sets the idle strategy of waiting calls.
    #[must_use]
    pub fn with_idle(mut self, idle: IdleStrategy) -> Self {
        self.idle = idle;
        self
    }

    /// Reads egress, keeps the session alive and follows leader changes without blocking. Returns the work done.
    ///
    /// # Errors
    /// See [`BlockingClientError`]; the session is over then.
    pub fn poll(&mut self, listener: &mut impl EgressListener) -> Result<usize, BlockingClientError> {
        let now = SystemClock.now();
        let work_count = self.aeron.do_work(&now)?;
        while self.aeron.poll_event().is_some() {}
        Ok(work_count + self.client.poll(&mut self.aeron, &now, listener)?)
    }

    /// Polls until `is_done` returns true.
    ///
    /// # Errors
    /// [`BlockingClientError::Timeout`] after the message timeout.
    pub fn wait<L: EgressListener>(
        &mut self,
        listener: &mut L,
        mut is_done: impl FnMut(&mut L) -> bool,
    ) -> Result<(), BlockingClientError> {
        self.until("waiting for egress", listener, |_, listener| Ok(is_done(listener)))
    }

    fn until<L: EgressListener>(
        &mut self,
        what: &'static str,
        listener: &mut L,
        mut is_done: impl FnMut(&mut Self, &mut L) -> Result<bool, BlockingClientError>,
    ) -> Result<(), BlockingClientError> {
        let deadline_ns = SystemClock.now().ns.saturating_add(self.timeout_ns);
        while !is_done(self, listener)? {
            if SystemClock.now().ns > deadline_ns {
                let (timeout_ns, state) = (self.timeout_ns, self.client.state());
                return Err(BlockingClientError::Timeout { timeout_ns, what, state });
            }
            let work_count = self.poll(listener)?;
            self.idle.idle(work_count);
        }
        Ok(())
    }

    /// Sends a message of the session. Waits while the ingress is back-pressured or the leader changes; meanwhile
    /// egress goes to `listener`. A leader crash may lose the message, so only an answer confirms it.
    ///
    /// # Errors
    /// See [`BlockingClientError`].
    pub fn offer(
        &mut self,
        message: &[u8],
        listener: &mut impl EgressListener,
    ) -> Result<i64, BlockingClientError> {
        let mut position = 0;
        self.until("offering a message", listener, |client, _| match client.client.offer(message) {
            Ok(sent) => {
                position = sent;
                Ok(true)
            }
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        Ok(position)
    }

    /// Requests a snapshot of the cluster and waits for the answer.
    ///
    /// # Errors
    /// [`BlockingClientError::NoSnapshot`] with the cluster's words when it refuses.
    pub fn request_snapshot(
        &mut self,
        listener: &mut impl EgressListener,
    ) -> Result<(), BlockingClientError> {
        let correlation_id = self.aeron.next_correlation_id();
        self.until("asking for a snapshot", listener, |client, _| {
            match client.client.request_snapshot(correlation_id) {
                Err(error) if error.is_retryable() => Ok(false),
                outcome => Ok(outcome?),
            }
        })?;
        let mut with_answer = WithAnswer { listener, correlation_id, answer: None };
        self.until("waiting for the answer", &mut with_answer, |_, egress| Ok(egress.answer.is_some()))?;
        match with_answer.answer {
            Some((0, _)) | None => Ok(()),
            Some((_, message)) => Err(BlockingClientError::NoSnapshot(message)),
        }
    }

    /// The underlying client, for its session, leader and state.
    pub fn client(&self) -> &ClusterClient {
        &self.client
    }

    /// Ends the session.
    pub fn close(mut self) {
        self.client.close();
        self.aeron.close();
    }
}
