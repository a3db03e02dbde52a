//! Blocking lease client. A dedicated thread keeps the session; any thread may call.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use harrier_client::{Aeron, Context};
use harrier_cluster::client::ClusterClientError;
use harrier_lease::client::{LeaseClient, LeaseClientContext, Leases, PinInfo, Tenures};
use harrier_lease::{
    BlockError, Cancel, CheckError, Checker, ClaimError, Claimer, Fence, PinError, PolledClaimer,
    ProcessIdentity, ReleaseError, RequestId, Tenure, Token, Unanswered,
};
use harrier_platform::{MappedMemory, SystemClock};
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, AgentError, Clock, Now, SharedThread};

use super::calls::Calls;
use super::process::process_identity;
use crate::node::NodeError;

/// Interval of attempts to connect to the driver, ns.
const DRIVER_RETRY_NS: i64 = 50_000_000;

/// A call in progress; returns true once complete.
type Call = Box<dyn FnMut(&mut LeaseClient) -> bool + Send>;

/// A client of a cluster's lease service, for any number of threads. Clones share its session. The session ends with
/// [`close`](Self::close), or with the last clone.
///
/// ```no_run
/// use std::time::Duration;
/// use harrier::cluster::client::ClusterClientContext;
/// use harrier::lease::{Claimer, ClaimError, LeaseClientContext};
/// use harrier::leases::BlockingLeaseClient;
///
/// let cluster = ClusterClientContext::new("0=localhost:20110", "aeron:udp?endpoint=localhost:0");
/// let client = BlockingLeaseClient::connect("/dev/shm/aeron", LeaseClientContext::new(cluster)).unwrap();
/// match client.claim_leadership("db", "db/0", Duration::from_secs(30)) {
///     Ok(tenure) => println!("leading with token {}", tenure.token),
///     Err(ClaimError::Denied) => println!("another unit leads"),
///     Err(ClaimError::UnitHeld(held)) => println!("{held}"),
///     Err(error) => println!("nothing is known: {error}"),
/// }
/// ```
#[derive(Clone)]
pub struct BlockingLeaseClient {
    inner: Arc<Inner>,
}

struct Inner {
    calls: Sender<Call>,
    tenures: Mutex<Tenures>,
    /// Stops the client's thread when dropped.
    _runner: AgentRunner,
}

impl Inner {
    fn tenures(&self) -> MutexGuard<'_, Tenures> {
        self.tenures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Waits for the outcome of a request or the client's end.
fn receive<V, E: From<Unanswered>>(outcome: &Receiver<Result<V, E>>) -> Result<V, E> {
    outcome.recv().unwrap_or_else(|_| Err(Unanswered::Closed.into()))
}

impl BlockingLeaseClient {
    /// Starts a client on the media driver of a directory. Calls wait until the session is open; driver and cluster may
    /// start later.
    ///
    /// # Errors
    /// Invalid setting, or the system has no thread left.
    pub fn connect(
        aeron_directory: impl Into<PathBuf>,
        context: LeaseClientContext,
    ) -> Result<Self, NodeError> {
        // At most 200 µs, because a call waits that long for the thread to notice it.
        let idle = IdleStrategy::Backoff(Backoff::new(10, 20, 1_000, 200_000));
        Self::connect_with(aeron_directory, context, idle)
    }

    /// Like [`connect`](Self::connect), with an idle strategy for the client's thread.
    ///
    /// # Errors
    /// Invalid setting, or the system has no thread left.
    pub fn connect_with(
        aeron_directory: impl Into<PathBuf>,
        mut context: LeaseClientContext,
        idle: IdleStrategy,
    ) -> Result<Self, NodeError> {
        if context.process == ProcessIdentity::UNNAMED {
            context.process = process_identity(std::process::id())?;
        }
        let setting = |error: ClusterClientError| NodeError::Setting(error.to_string());
        // Validated here; created on its thread.
        drop(LeaseClient::new(context.clone()).map_err(setting)?);
        let driver = Context::new(aeron_directory).client_name(&context.cluster.client_name);
        let (calls, incoming) = mpsc::channel();
        let runner = AgentRunner::start("lease-client", move || {
            let pace = Box::new(ThreadPace::new(SystemClock, idle));
            let thread = SharedThread::new(pace, Box::new(|_, _| ()));
            let client = LeaseClient::new(context).map_err(|error| error.to_string())?;
            let agent = ClientAgent {
                driver,
                aeron: None,
                driver_at_ns: i64::MIN,
                client,
                incoming,
                calls: Vec::new(),
            };
            thread.install(vec![Box::new(agent)]).map_err(|error| error.to_string())?;
            Ok(thread)
        })?;
        let tenures = Mutex::new(Tenures::default());
        Ok(Self { inner: Arc::new(Inner { calls, tenures, _runner: runner }) })
    }

    /// Closes the client for all its clones, from any thread. Calls under way and later ones fail with
    /// [`Unanswered::Closed`]; this call does not wait for them.
    ///
    /// ```no_run
    /// # fn run(client: harrier::leases::BlockingLeaseClient) {
    /// use harrier::lease::{Cancel, Claimer};
    ///
    /// let waiter = client.clone();
    /// let wait = std::thread::spawn(move || waiter.block_until_leadership_released("db", &Cancel::new()));
    /// client.close();
    /// assert!(wait.join().unwrap().is_err());
    /// # }
    /// ```
    pub fn close(&self) {
        let closing: Call = Box::new(|client| {
            client.close();
            true
        });
        // If the thread has ended, the client is closed already.
        let _already_closed = self.inner.calls.send(closing);
    }

    /// Begins a call: the client's thread runs `advance` until it returns the outcome.
    fn call<V: Send + 'static>(
        &self,
        mut advance: impl FnMut(&mut LeaseClient) -> Option<V> + Send + 'static,
    ) -> Receiver<V> {
        let (sender, receiver): (SyncSender<V>, _) = mpsc::sync_channel(1);
        let call: Call = Box::new(move |client| match advance(client) {
            None => false,
            Some(outcome) => {
                // The caller may be gone.
                let _unheard = sender.try_send(outcome);
                true
            }
        });
        // Without its thread the client is closed, and the receiver is disconnected.
        let _closed = self.inner.calls.send(call);
        receiver
    }

    /// Sends a request and then polls for its outcome.
    fn request<V: Send + 'static, E: Send + 'static>(
        &self,
        start: impl Fn(&mut LeaseClient) -> Result<RequestId, E> + Send + 'static,
        poll: impl Fn(&mut LeaseClient, RequestId) -> Option<Result<V, E>> + Send + 'static,
    ) -> Receiver<Result<V, E>> {
        let mut id = None;
        self.call(move |client| {
            let id = match id {
                Some(id) => id,
                None => match start(client) {
                    Ok(started) => *id.insert(started),
                    Err(error) => return Some(Err(error)),
                },
            };
            poll(client, id)
        })
    }

    fn begin_claim(
        &self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        started_ns: i64,
    ) -> Receiver<Result<Tenure, ClaimError>> {
        let (application, unit) = (application.to_owned(), unit.to_owned());
        self.request(
            move |client| client.start_claim(&application, &unit, duration_ns, started_ns),
            |client, id| client.poll_claim(id),
        )
    }

    fn note_claim(&self, application: &str, unit: &str, outcome: &Result<Tenure, ClaimError>) {
        match outcome {
            Ok(tenure) => self.inner.tenures().put(application, unit, *tenure),
            Err(ClaimError::Denied | ClaimError::UnitHeld(_)) => {
                self.inner.tenures().remove(application, unit)
            }
            Err(_) => {}
        }
    }

    fn begin_block(&self, application: &str, cancel: &Cancel) -> Receiver<Result<(), BlockError>> {
        let (application, cancel) = (application.to_owned(), cancel.clone());
        let started_ns = SystemClock.now().ns;
        let mut id = None;
        self.call(move |client| {
            if cancel.is_cancelled() {
                if let Some(id) = id {
                    client.cancel(id);
                }
                return Some(Err(BlockError::BlockCancelled));
            }
            let id = match id {
                Some(id) => id,
                None => match client.start_block(&application, started_ns) {
                    Ok(started) => *id.insert(started),
                    Err(error) => return Some(Err(error)),
                },
            };
            client.poll_block(id)
        })
    }

    fn begin_release(
        &self,
        application: &str,
        unit: &str,
        token: u64,
        started_ns: i64,
    ) -> Receiver<Result<(), ReleaseError>> {
        self.inner.tenures().release(application, unit, token);
        let (application, unit) = (application.to_owned(), unit.to_owned());
        self.request(
            move |client| client.start_release(&application, &unit, token, started_ns),
            |client, id| client.poll_release(id),
        )
    }

    /// Releases a lease immediately. Repeating it with the same token has no effect (spec 05 L8).
    ///
    /// # Errors
    /// See [`ReleaseError`].
    pub fn release(&self, application: &str, unit: &str, token: u64) -> Result<(), ReleaseError> {
        receive(&self.begin_release(application, unit, token, SystemClock.now().ns))
    }

    /// Keeps an application's lease from expiring while `entity` pins it.
    ///
    /// # Errors
    /// See [`PinError`].
    pub fn pin(&self, application: &str, entity: &str) -> Result<(), PinError> {
        let (application, entity, now_ns) = (application.to_owned(), entity.to_owned(), SystemClock.now().ns);
        receive(&self.request(
            move |client| client.start_pin(&application, &entity, now_ns),
            |client, id| client.poll_pin(id),
        ))
    }

    /// Removes a pin. Without pins the lease expires at its expiry time.
    ///
    /// # Errors
    /// See [`PinError`].
    pub fn unpin(&self, application: &str, entity: &str) -> Result<(), PinError> {
        let (application, entity, now_ns) = (application.to_owned(), entity.to_owned(), SystemClock.now().ns);
        receive(&self.request(
            move |client| client.start_unpin(&application, &entity, now_ns),
            |client, id| client.poll_pin(id),
        ))
    }

    /// All pins.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub fn pinned(&self) -> Result<Vec<PinInfo>, Unanswered> {
        let now_ns = SystemClock.now().ns;
        receive(&self.request(move |client| client.start_pinned(now_ns), |client, id| client.poll_pinned(id)))
    }

    /// All leases.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub fn list(&self) -> Result<Leases, Unanswered> {
        let now_ns = SystemClock.now().ns;
        receive(&self.request(move |client| client.start_list(now_ns), |client, id| client.poll_list(id)))
    }

    /// Returns a polled claimer, for trackers and duty cycles, that shares this client's session.
    pub fn polled(&self) -> SharedClaimer {
        SharedClaimer { client: self.clone(), calls: Calls::default(), claims: BTreeMap::new() }
    }
}

impl Claimer for BlockingLeaseClient {
    fn claim_leadership(
        &self,
        application: &str,
        unit: &str,
        duration: Duration,
    ) -> Result<Tenure, ClaimError> {
        // The guarantee counts from the moment of the call (spec 05 L1).
        let started_ns = SystemClock.now().ns;
        let outcome = receive(&self.begin_claim(application, unit, to_ns(duration), started_ns));
        self.note_claim(application, unit, &outcome);
        outcome
    }

    fn block_until_leadership_released(&self, application: &str, cancel: &Cancel) -> Result<(), BlockError> {
        receive(&self.begin_block(application, cancel))
    }

    fn release_leadership(&self, application: &str, unit: &str, token: u64) -> Result<(), ReleaseError> {
        self.release(application, unit, token)
    }
}

impl Checker for BlockingLeaseClient {
    type Token = LeaseToken;

    fn leadership_check(&self, application: &str, unit: &str) -> LeaseToken {
        LeaseToken { client: self.clone(), application: application.to_owned(), unit: unit.to_owned() }
    }
}

/// A check of one unit's leadership.
#[derive(Clone)]
pub struct LeaseToken {
    client: BlockingLeaseClient,
    application: String,
    unit: String,
}

impl Token for LeaseToken {
    fn check(&self, out: Option<&mut Fence>) -> Result<(), CheckError> {
        let (application, unit, now_ns) = (self.application.clone(), self.unit.clone(), SystemClock.now().ns);
        let fence = receive(&self.client.request(
            move |client| client.start_check(&application, &unit, now_ns),
            |client, id| {
                let mut fence = Fence::default();
                Some(client.poll_check(id, Some(&mut fence))?.map(|()| fence))
            },
        ))?;
        if let Some(out) = out {
            *out = fence;
        }
        Ok(())
    }

    fn check_local(&self, out: Option<&mut Fence>) -> Result<(), CheckError> {
        harrier_lease::check_name("application", &self.application)?;
        harrier_lease::check_name("unit", &self.unit)?;
        let tenures = self.client.inner.tenures();
        let tenure = tenures.get(&self.application, &self.unit, SystemClock.now().ns);
        let token = tenure.ok_or(CheckError::NotHeld)?.token;
        if let Some(out) = out {
            *out = Fence { application: self.application.clone(), unit: self.unit.clone(), token };
        }
        Ok(())
    }
}

/// A [`BlockingLeaseClient`] as a polled claimer.
pub struct SharedClaimer {
    client: BlockingLeaseClient,
    calls: Calls,
    /// Application and unit of each claim under way.
    claims: BTreeMap<RequestId, (String, String)>,
}

impl PolledClaimer for SharedClaimer {
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        now_ns: i64,
    ) -> Result<RequestId, ClaimError> {
        let outcome = self.client.begin_claim(application, unit, duration_ns, now_ns);
        let id = self.calls.add_claim(outcome);
        self.claims.insert(id, (application.to_owned(), unit.to_owned()));
        Ok(id)
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        let outcome = self.calls.poll_claim(id)?;
        let (application, unit) = self.claims.remove(&id)?;
        self.client.note_claim(&application, &unit, &outcome);
        Some(outcome)
    }

    fn start_block(&mut self, application: &str, _now_ns: i64) -> Result<RequestId, BlockError> {
        let cancel = Cancel::new();
        let outcome = self.client.begin_block(application, &cancel);
        Ok(self.calls.add_block(outcome, cancel))
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        self.calls.poll_block(id)
    }

    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        now_ns: i64,
    ) -> Result<RequestId, ReleaseError> {
        let outcome = self.client.begin_release(application, unit, token, now_ns);
        Ok(self.calls.add_release(outcome))
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        self.calls.poll_release(id)
    }

    fn cancel(&mut self, id: RequestId) {
        self.claims.remove(&id);
        self.calls.cancel(id);
    }
}

/// Runs on the client's thread.
struct ClientAgent {
    driver: Context,
    aeron: Option<Aeron>,
    driver_at_ns: i64,
    client: LeaseClient,
    incoming: Receiver<Call>,
    calls: Vec<Call>,
}

impl ClientAgent {
    /// Works with the driver, or waits for one: a restarted node has a new driver.
    fn work(&mut self, now: &Now) -> usize {
        if self.aeron.is_none() {
            self.client.tick(now);
            if now.ns < self.driver_at_ns {
                return 0;
            }
            self.driver_at_ns = now.ns + DRIVER_RETRY_NS;
            match Aeron::connect(self.driver.clone(), MappedMemory, now) {
                Ok(aeron) => self.aeron = Some(aeron),
                Err(error) => self.client.on_driver_lost(error.to_string()),
            }
        }
        let Some(aeron) = &mut self.aeron else { return 0 };
        match aeron.do_work(now) {
            Ok(work_count) => {
                while aeron.poll_event().is_some() {}
                work_count + self.client.do_work(aeron, now)
            }
            Err(error) => {
                self.client.on_driver_lost(error.to_string());
                self.aeron = None;
                1
            }
        }
    }

    fn advance_calls(&mut self) -> usize {
        let before = self.calls.len();
        self.calls.extend(self.incoming.try_iter());
        let work_count = self.calls.len() - before;
        let client = &mut self.client;
        let open = self.calls.len();
        self.calls.retain_mut(|call| !call(client));
        work_count + open - self.calls.len()
    }
}

impl Agent for ClientAgent {
    fn role_name(&self) -> &str {
        "lease-client"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        // Calls are first, so that their requests are sent in the same duty cycle.
        let work_count = self.advance_calls();
        if self.client.is_closed() {
            return Err(AgentError::terminated("the lease client was closed"));
        }
        Ok(work_count + self.work(now))
    }

    fn next_deadline(&self) -> Option<i64> {
        self.client.next_deadline()
    }

    fn on_close(&mut self, _now: &Now) {
        self.client.close();
        self.advance_calls();
        if let Some(aeron) = &mut self.aeron {
            aeron.close();
        }
    }
}
