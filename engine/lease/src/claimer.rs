//! The interfaces of leadership (spec 05, "Interfaces"): blocking, and their polled twins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harrier_ringbuf::Now;

use crate::codec::{Envelope, Process};
use crate::errors::{BlockError, CheckError, ClaimError, ReleaseError};
use crate::ticket::Ticket;

/// Identity of a process that claims leadership for its units (spec 05 L23).
///
/// While a lease lives, only the process that holds it can extend it: another process that claims for the same unit
/// gets [`ClaimError::UnitHeld`], which names the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Number of the process, unique among all processes of all hosts. 0 stands for a client that does not name its
    /// process.
    pub id: u64,
    /// Time when the process started, ms since the Unix epoch.
    pub started_ms: i64,
    /// Text that identifies the process to people, for instance `pid 4711 on host-a`. Only its first 128 bytes are
    /// kept.
    pub name: String,
}

impl ProcessIdentity {
    /// Identity of a client that does not name its process.
    pub const UNNAMED: Self = Self { id: 0, started_ms: 0, name: String::new() };

    /// Identity of a process that a name alone identifies. Equal names are the same process.
    pub fn named(name: &str) -> Self {
        // The 64-bit FNV-1a hash. The lowest bit keeps it from 0, which stands for an unnamed process.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self { id: hash | 1, started_ms: 0, name: name.to_owned() }
    }

    /// Returns the identity in the form of messages.
    pub(crate) fn as_process(&self) -> Process<'_> {
        let mut end = self.name.len().min(crate::codec::MAX_NAME_LENGTH);
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        Process { id: self.id, started_ms: self.started_ms, name: &self.name[..end] }
    }
}

impl From<Process<'_>> for ProcessIdentity {
    fn from(process: Process<'_>) -> Self {
        Self { id: process.id, started_ms: process.started_ms, name: process.name.to_owned() }
    }
}

/// An unbroken run of one holder's lease, as a claim reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// Fencing token: strictly increasing across all tenures.
    pub token: u64,
    /// Time until which the unit certainly leads, ns of the caller's monotonic clock: the start of the call plus the
    /// duration (spec 05 L1).
    pub guaranteed_until_ns: i64,
}

/// Proof of a tenure, for messages that must not outlive it (spec 05 L10).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fence {
    /// The application.
    pub application: String,
    /// The unit that leads it.
    pub unit: String,
    /// Fencing token of the tenure.
    pub token: u64,
}

impl Fence {
    /// Puts the fence around a message for services that accept fences; `buffer` then contains the message to offer
    /// to the cluster. The service's `FenceStale` carries `correlation_id`.
    ///
    /// ```
    /// use harrier_lease::Fence;
    /// use harrier_lease::codec::Envelope;
    ///
    /// let fence = Fence { application: "db".into(), unit: "db/0".into(), token: 96 };
    /// let mut buffer = Vec::new();
    /// fence.wrap(7, b"write", &mut buffer);
    /// let envelope = Envelope::decode(&buffer).unwrap().unwrap();
    /// assert_eq!((envelope.token, envelope.payload), (96, &b"write"[..]));
    /// ```
    pub fn wrap(&self, correlation_id: i64, payload: &[u8], buffer: &mut Vec<u8>) {
        let application = self.application.as_str();
        buffer.resize(Envelope::encoded_length(application, payload.len()), 0);
        let envelope = Envelope { correlation_id, token: self.token, application, payload };
        let length = envelope.encode(buffer);
        debug_assert_eq!(length, Ok(buffer.len()));
    }
}

/// Cancels a blocking wait; clones cancel the same wait.
///
/// ```
/// use harrier_lease::Cancel;
///
/// let cancel = Cancel::new();
/// let other = cancel.clone();
/// other.cancel();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Creates a handle that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the wait.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True when the wait is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Claims leadership, and waits until other units release it. Calls block; see [`PolledClaimer`] for duty cycles.
pub trait Claimer {
    /// Claims leadership for at least `duration` from the time of the call, or extends it.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Denied`]: the unit certainly does not lead. Any other error permits no inference (spec 05 L2,
    /// L3).
    fn claim_leadership(
        &self,
        application: &str,
        unit: &str,
        duration: Duration,
    ) -> Result<Tenure, ClaimError>;

    /// Returns as soon as the application has no holder; at once when it has none already (spec 05 L7).
    ///
    /// # Errors
    ///
    /// See [`BlockError`].
    fn block_until_leadership_released(&self, application: &str, cancel: &Cancel) -> Result<(), BlockError>;

    /// Releases a tenure, so that the unit stops leading at once (spec 05 L8).
    ///
    /// # Errors
    /// See [`ReleaseError`]; [`ReleaseError::Unsupported`] unless the claimer implements it, and then the lease
    /// expires.
    fn release_leadership(&self, _application: &str, _unit: &str, _token: u64) -> Result<(), ReleaseError> {
        Err(ReleaseError::Unsupported)
    }
}

/// A check of one unit's leadership that can be made again and again.
pub trait Token {
    /// Asks the log whether the unit leads; its fence is copied to `out` when it does (spec 05 L9).
    ///
    /// # Errors
    /// See [`CheckError`].
    fn check(&self, out: Option<&mut Fence>) -> Result<(), CheckError>;

    /// Answers from this process's own claims without a request. It can only err on the side of "not held".
    ///
    /// # Errors
    ///
    /// [`CheckError::NotHeld`], or [`CheckError::Invalid`].
    fn check_local(&self, out: Option<&mut Fence>) -> Result<(), CheckError>;
}

/// Creates tokens.
pub trait Checker {
    /// Type of the tokens.
    type Token: Token;

    /// Returns a token of a unit's leadership. It never fails and sends no request, so the token may be false from
    /// the start.
    fn leadership_check(&self, application: &str, unit: &str) -> Self::Token;
}

/// Id of a request that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// [`Claimer`] for duty cycles: requests are started, and polled until they are answered. An answer is returned once.
pub trait PolledClaimer {
    /// Starts a claim; `now_ns` is the time of the call on the caller's monotonic clock, from which the tenure
    /// counts.
    ///
    /// # Errors
    ///
    /// Errors that are known before anything is sent, see [`ClaimError`].
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        now_ns: i64,
    ) -> Result<RequestId, ClaimError>;

    /// Returns the answer to a claim, once.
    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>>;

    /// Starts to wait for release.
    ///
    /// # Errors
    ///
    /// Errors that are known before anything is sent, see [`BlockError`].
    fn start_block(&mut self, application: &str, now_ns: i64) -> Result<RequestId, BlockError>;

    /// Returns the end of a wait, once.
    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>>;

    /// Starts to release a tenure.
    ///
    /// # Errors
    ///
    /// Errors that are known before anything is sent, see [`ReleaseError`].
    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        now_ns: i64,
    ) -> Result<RequestId, ReleaseError>;

    /// Returns the answer to a release, once.
    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>>;

    /// Forgets a request. A wait is cancelled; whether another request is carried out is unknown.
    fn cancel(&mut self, id: RequestId);

    /// Runs a duty cycle of a claimer that no agent runs. Returns the work done.
    fn do_work(&mut self, _now: &Now) -> usize {
        0
    }
}

/// Keeps a unit the leader of its application as long as possible, without help of its caller (spec 05 L12–L18). For
/// duty cycles there is [`PolledTracker`](crate::PolledTracker).
pub trait Tracker {
    /// The application.
    fn application_name(&self) -> &str;

    /// Duration that a true claim ticket guarantees.
    fn claim_duration(&self) -> Duration;

    /// Resolves true when leadership is guaranteed for the claim duration from now on, and false otherwise; resolves
    /// quickly (spec 05 L16).
    fn claim_leader(&self) -> Ticket;

    /// Resolves true when the unit leads (spec 05 L17).
    fn wait_leader(&self) -> Ticket;

    /// Resolves false when future leadership can no longer be guaranteed (spec 05 L17).
    fn wait_minion(&self) -> Ticket;
}
