//! Blocking archive client: each call returns once its request is answered.

use std::collections::VecDeque;
use std::path::PathBuf;

use harrier_archive::RecordingDescriptor;
use harrier_archive::client::{
    ArchiveAnswer, ArchiveClient, ArchiveClientContext, ArchiveClientError, ReplayOptions, find_by_recording,
};
use harrier_archive::codec::Signal;
use harrier_client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier_platform::{MappedMemory, SystemClock};
use harrier_protocol::uri::{ChannelUri, UriError, key};
use harrier_ringbuf::Clock;
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use thiserror::Error;

/// Maximum number of signals that wait for [`BlockingArchiveClient::await_signal`].
const MAX_SIGNALS: usize = 1_024;

/// Errors of a blocking call.
#[derive(Debug, Error)]
pub enum BlockingArchiveError {
    /// Error of the archive client.
    #[error(transparent)]
    Archive(#[from] ArchiveClientError),
    /// Error of the media driver's client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive refused the request.
    #[error("the archive refused the request: error {code}: {message}")]
    Refused {
        /// Error code of spec 03 §1.2.
        code: i64,
        /// Error text of the archive.
        message: String,
    },
    /// There is no such recording or subscription.
    #[error("the archive knows no {what} with id {id}")]
    Unknown {
        /// `recording` or `subscription`.
        what: &'static str,
        /// Id that the archive looked for.
        id: i64,
    },
    /// A channel that cannot be parsed.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// A call timed out.
    #[error("timed out after {timeout_ns} ns waiting for {what}")]
    Timeout {
        /// The message timeout.
        timeout_ns: i64,
        /// Event that was awaited.
        what: &'static str,
    },
}

/// A signal about a recording (spec 03 §2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveSignal {
    /// Kind of signal.
    pub signal: Signal,
    /// Recording id; -1 for none.
    pub recording_id: i64,
    /// Position of the recording at that moment, bytes; -1 for none.
    pub position: i64,
    /// Correlation id of the request that the signal belongs to.
    pub correlation_id: i64,
}

/// A session with an archive whose calls block, with its own client of a media driver.
///
/// [`call`](Self::call) sends any request of [`ArchiveClient`] and waits for its answer. Programs with their own duty cycle
/// use [`ArchiveClient`], which never blocks. See `docs/guide/recording.md`.
///
/// ```no_run
/// use harrier::BlockingArchiveClient;
/// use harrier::archive::client::ArchiveClientContext;
///
/// let mut archive =
///     BlockingArchiveClient::connect("/dev/shm/aeron-default", ArchiveClientContext::ipc()).unwrap();
/// for recording in archive.list(0, 100).unwrap() {
///     println!("{} {}", recording.recording_id, recording.original_channel);
/// }
/// let start = archive.call(|client, aeron| client.start_position(aeron, 0)).unwrap();
/// # let _ = start;
/// ```
pub struct BlockingArchiveClient {
    aeron: Aeron,
    client: ArchiveClient,
    signals: VecDeque<ArchiveSignal>,
    idle: IdleStrategy,
    timeout_ns: i64,
}

impl BlockingArchiveClient {
    /// Waits for the media driver in a directory, and for a session with the archive.
    ///
    /// # Errors
    /// See [`BlockingArchiveError`].
    pub fn connect(
        aeron_directory: impl Into<PathBuf>,
        context: ArchiveClientContext,
    ) -> Result<Self, BlockingArchiveError> {
        let timeout_ns = context.message_timeout_ns;
        let mut idle = IdleStrategy::Backoff(Backoff::new(1, 10, 1_000, 100_000));
        let driver = Context::new(aeron_directory).client_name("archive-client");
        let deadline_ns = SystemClock.now().ns.saturating_add(timeout_ns);
        let aeron = loop {
            let now = SystemClock.now();
            match Aeron::connect(driver.clone(), MappedMemory, &now) {
                Err(ClientError::NotReady { .. }) if now.ns <= deadline_ns => idle.idle(0),
                outcome => break outcome?,
            }
        };
        let client = ArchiveClient::new(context);
        let mut session = Self { aeron, client, signals: VecDeque::new(), idle, timeout_ns };
        session.until("the connection", |session| Ok(session.client.is_connected().then_some(())))?;
        Ok(session)
    }

    /// Client of the media driver, for streams of the program.
    pub fn aeron(&mut self) -> &mut Aeron {
        &mut self.aeron
    }

    /// Reads answers and keeps the session alive without blocking. Returns the work done. Call it while the program
    /// waits for something else.
    ///
    /// # Errors
    /// See [`BlockingArchiveError`]; the session is over then.
    pub fn poll(&mut self) -> Result<usize, BlockingArchiveError> {
        let now = SystemClock.now();
        let work_count = self.aeron.do_work(&now)?;
        while self.aeron.poll_event().is_some() {}
        Ok(work_count + self.client.poll(&mut self.aeron, &now)?)
    }

    /// Polls until `condition` returns a value.
    ///
    /// # Errors
    /// [`BlockingArchiveError::Timeout`] after the message timeout, or an error of `condition`.
    pub fn until<V>(
        &mut self,
        what: &'static str,
        mut condition: impl FnMut(&mut Self) -> Result<Option<V>, BlockingArchiveError>,
    ) -> Result<V, BlockingArchiveError> {
        let deadline_ns = SystemClock.now().ns.saturating_add(self.timeout_ns);
        loop {
            let work_count = self.poll()?;
            if let Some(value) = condition(self)? {
                return Ok(value);
            }
            if SystemClock.now().ns > deadline_ns {
                return Err(BlockingArchiveError::Timeout { timeout_ns: self.timeout_ns, what });
            }
            self.idle.idle(work_count);
        }
    }

    /// Takes the next answer that is not a signal. Signals wait for [`await_signal`](Self::await_signal).
    fn next_answer(&mut self) -> Option<ArchiveAnswer> {
        while let Some(answer) = self.client.poll_answer() {
            let ArchiveAnswer::Signal { correlation_id, recording_id, position, signal, .. } = answer else {
                return Some(answer);
            };
            if self.signals.len() == MAX_SIGNALS {
                self.signals.pop_front();
            }
            self.signals.push_back(ArchiveSignal { signal, recording_id, position, correlation_id });
        }
        None
    }

    /// Sends a request, again as long as the control stream is back-pressured; returns its correlation id.
    fn send(
        &mut self,
        mut request: impl FnMut(&mut ArchiveClient, &Aeron) -> Result<i64, ArchiveClientError>,
    ) -> Result<i64, BlockingArchiveError> {
        self.until("room for the request", |session| match request(&mut session.client, &session.aeron) {
            Ok(correlation_id) => Ok(Some(correlation_id)),
            Err(ArchiveClientError::BackPressured) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// Sends a request and waits for its answer; returns the relevant id, whose meaning depends on the request (spec 03
    /// §2.8).
    ///
    /// # Errors
    /// [`BlockingArchiveError::Refused`], [`BlockingArchiveError::Unknown`], or a lost connection.
    pub fn call(
        &mut self,
        request: impl FnMut(&mut ArchiveClient, &Aeron) -> Result<i64, ArchiveClientError>,
    ) -> Result<i64, BlockingArchiveError> {
        let wanted = self.send(request)?;
        self.until("the answer", |session| {
            let Some(answer) = session.next_answer() else { return Ok(None) };
            match answer {
                ArchiveAnswer::Error { correlation_id, code, message } if correlation_id == wanted => {
                    Err(BlockingArchiveError::Refused { code, message })
                }
                ArchiveAnswer::RecordingUnknown { correlation_id, recording_id }
                    if correlation_id == wanted =>
                {
                    Err(BlockingArchiveError::Unknown { what: "recording", id: recording_id })
                }
                ArchiveAnswer::SubscriptionUnknown { correlation_id, relevant_id }
                    if correlation_id == wanted =>
                {
                    Err(BlockingArchiveError::Unknown { what: "subscription", id: relevant_id })
                }
                ArchiveAnswer::Ok { correlation_id, relevant_id } if correlation_id == wanted => {
                    Ok(Some(relevant_id))
                }
                _ => Ok(None),
            }
        })
    }

    /// Lists at most `count` recordings with ids from `from_recording_id` on, in ascending order.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn list(
        &mut self,
        from_recording_id: i64,
        count: i32,
    ) -> Result<Vec<RecordingDescriptor>, BlockingArchiveError> {
        let wanted = self.send(|client, aeron| client.list_recordings(aeron, from_recording_id, count))?;
        let mut recordings = Vec::new();
        self.until("the listing", |session| {
            while let Some(answer) = session.next_answer() {
                match answer {
                    ArchiveAnswer::Descriptor { correlation_id, descriptor } if correlation_id == wanted => {
                        recordings.push(*descriptor);
                        if recordings.len() as i64 == i64::from(count) {
                            return Ok(Some(()));
                        }
                    }
                    ArchiveAnswer::RecordingUnknown { correlation_id, .. } if correlation_id == wanted => {
                        return Ok(Some(()));
                    }
                    ArchiveAnswer::Error { correlation_id, code, message } if correlation_id == wanted => {
                        return Err(BlockingArchiveError::Refused { code, message });
                    }
                    _ => {}
                }
            }
            Ok(None)
        })?;
        Ok(recordings)
    }

    /// Waits for a signal and takes it. Earlier signals of other kinds keep waiting.
    ///
    /// # Errors
    /// A time-out or a lost connection.
    pub fn await_signal(&mut self, wanted: Signal) -> Result<ArchiveSignal, BlockingArchiveError> {
        self.until("the signal", |session| {
            // Answers that nobody awaits are errors of earlier requests, such as a replay without a subscriber.
            while let Some(answer) = session.next_answer() {
                if let ArchiveAnswer::Error { code, message, .. } = answer {
                    return Err(BlockingArchiveError::Refused { code, message });
                }
            }
            let index = session.signals.iter().position(|signal| signal.signal == wanted);
            Ok(index.and_then(|index| session.signals.remove(index)))
        })
    }

    /// Waits until an active recording of an archive on this driver has reached a position.
    ///
    /// # Errors
    /// A time-out or a lost connection.
    pub fn await_recorded(&mut self, recording_id: i64, position: i64) -> Result<(), BlockingArchiveError> {
        self.until("the recorded position", |session| {
            let archive_id = Some(session.client.archive_id());
            let counters = session.aeron.counters();
            let recorded = find_by_recording(counters, recording_id, archive_id).map(|id| counters.value(id));
            Ok(recorded.is_some_and(|recorded| recorded >= position).then_some(()))
        })
    }

    /// Adds a publication and waits for it.
    ///
    /// # Errors
    /// The driver refuses it, or a time-out.
    pub fn publication(
        &mut self,
        channel: &str,
        stream_id: i32,
    ) -> Result<ExclusivePublication, BlockingArchiveError> {
        let id = self.aeron.add_exclusive_publication(channel, stream_id)?;
        self.until("the publication", |session| Ok(session.aeron.exclusive_publication(id)?))
    }

    /// Adds a subscription and waits for it.
    ///
    /// # Errors
    /// The driver refuses it, or a time-out.
    pub fn subscription(
        &mut self,
        channel: &str,
        stream_id: i32,
    ) -> Result<Subscription, BlockingArchiveError> {
        let id = self.aeron.add_subscription(channel, stream_id)?;
        self.until("the subscription", |session| Ok(session.aeron.subscription(id)?))
    }

    /// Replays a recording to a subscription of this program: `length` bytes from `position`, or -1 for all, followed while
    /// the recording is active, or -2 for what is recorded now. Returns the replay's id, with which it is stopped, and
    /// the subscription.
    ///
    /// # Errors
    /// As [`call`](Self::call); a channel that cannot be parsed.
    pub fn replay(
        &mut self,
        recording_id: i64,
        position: i64,
        length: i64,
        channel: &str,
        stream_id: i32,
    ) -> Result<(i64, Subscription), BlockingArchiveError> {
        let options = ReplayOptions::default();
        let replay_id = self.call(|client, aeron| {
            client.replay(aeron, recording_id, position, length, channel, stream_id, options)
        })?;
        // The low half of the id is the session id of the stream, so that other replays are not read.
        let mut uri = ChannelUri::parse(channel)?;
        uri.put(key::SESSION_ID, replay_id as i32);
        Ok((replay_id, self.subscription(&uri.to_string(), stream_id)?))
    }

    /// Ends the session.
    pub fn close(mut self) {
        self.client.close();
        self.aeron.close();
    }
}
