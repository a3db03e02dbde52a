//! The archive: one agent that records streams and replays them (spec 03).

mod catalog_file;
mod deletions;
mod endings;
mod events;
mod recordings;
mod replays;
mod replications;
mod requests;
mod segments;
mod start;
mod tokens;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use harrier_client::{Aeron, ClientError, Counter, Subscription};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::memory::Overlap;
use harrier_ringbuf::storage::{
    FileId, Operation, Storage, StorageError, SyncLevel as FileSync, WriteBuffer,
};
use harrier_ringbuf::{Agent, AgentError, Memory, Now, Rng};
use thiserror::Error;

use crate::catalog::{Catalog, CatalogError, CatalogWrite};
use crate::codec::Request;
use crate::context::{ArchiveContext, InvalidSetting, SyncLevel};
use crate::io::{Io, Ticket};
use crate::mark_file::{MarkFile, MarkFileError, PreviousError};
use crate::recorder::{RecordingFailure, RecordingSession};
use crate::recovery::RecoveryError;
use crate::replay::ReplaySession;
use crate::replication::Replication;
use crate::session::{ControlSession, SessionState};
use crate::task::FileTask;
use endings::EndingRecording;
use events::RecordingEvents;
use recordings::{RecordingSubscription, SpaceCheck, StartingRecording};
use replays::WaitingReplay;
use start::Phase;
use tokens::ReplayToken;

/// Fragments taken from a control subscription per duty cycle.
const FRAGMENT_LIMIT: usize = 10;

/// Errors that stop an archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Invalid setting.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The archive's directory and the driver's overlap.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The directory belongs to another archive.
    #[error(transparent)]
    MarkFile(#[from] MarkFileError),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The catalog cannot be read.
    #[error("{}: {error}", path.display())]
    Catalog {
        /// Path of the catalog.
        path: PathBuf,
        /// Error found in the catalog.
        error: CatalogError,
    },
    /// A file is damaged in a way that no crash leaves behind.
    #[error("{}: {reason}; no command can repair it: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Description of the damage.
        reason: String,
    },
    /// A recording that was cut off could not be ended.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The driver is gone, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Catalog writes in flight.
#[derive(Debug)]
pub(crate) struct CatalogTicket {
    tickets: Vec<Ticket>,
    /// First failure of a write.
    failure: Option<RecordingFailure>,
}

/// A control stream on which clients send requests.
struct ControlStream {
    registration_id: i64,
    subscription: Option<Subscription>,
    assembler: FragmentAssembler,
}

/// A received request.
struct Incoming {
    image_session_id: i32,
    image_correlation_id: i64,
    source_identity: String,
    bytes: Vec<u8>,
}

/// The control stream on which a request arrived.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    image_session_id: i32,
    image_correlation_id: i64,
    source: &'a str,
}

/// Counters of the archive; empty until the driver has allocated them.
#[derive(Default)]
struct ArchiveCounters {
    pending: Vec<i64>,
    ready: Vec<Counter>,
}

/// Indices in [`ArchiveCounters`].
const ERRORS: usize = 0;
const CONTROL_SESSIONS: usize = 1;
const RECORDING_SESSIONS: usize = 2;
const REPLAY_SESSIONS: usize = 3;
const MAX_CYCLE_TIME: usize = 4;
const CYCLE_TIME_EXCEEDED: usize = 5;
/// Number of refused messages on the control streams.
const CONTROL_REFUSED: usize = 6;
/// First of the recorder's counters: longest write, bytes, time. The replayer's follow.
const TRANSFERS: usize = 7;

/// An archive: conductor, recorder and replayer as one agent.
///
/// Made by [`Archive::launch`]; it connects to its driver in its first duty cycles and serves clients from then on.
pub struct Archive<M: Memory, S: Storage> {
    context: ArchiveContext,
    memory: M,
    mark: MarkFile<M>,
    io: Io<S>,
    catalog: Catalog,
    catalog_file: FileId,
    /// True once the archive serves clients.
    ready: Arc<AtomicBool>,
    /// Damage that the start has found.
    warnings: Vec<String>,
    phase: Phase,
    aeron: Option<Aeron>,
    archive_id: i64,
    now: Now,
    /// Start time of the last duty cycle of a running archive.
    last_cycle_ns: Option<i64>,
    counters: ArchiveCounters,
    control: Vec<ControlStream>,
    events: Option<RecordingEvents>,
    incoming: VecDeque<Incoming>,
    sessions: Vec<ControlSession>,
    /// Commands in progress that reject the images of aborted sessions.
    rejections: Vec<i64>,
    next_session_id: i64,
    subscriptions: Vec<RecordingSubscription>,
    space_checks: Vec<SpaceCheck>,
    starting: Vec<StartingRecording>,
    recordings: Vec<RecordingSession>,
    ending: Vec<EndingRecording>,
    replays: Vec<ReplaySession>,
    waiting_replays: Vec<WaitingReplay>,
    next_replay: i64,
    replications: Vec<Replication>,
    replay_tokens: Vec<ReplayToken>,
    rng: Rng,
    tasks: Vec<FileTask>,
    /// Catalog writes that no request waits for.
    background: Vec<CatalogTicket>,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// True once the archive serves clients.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Returns a flag that becomes true once the archive serves clients, for the thread that does not run it.
    pub fn ready_flag(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// Id of the archive; -1 before it is ready and when it was not set.
    pub fn archive_id(&self) -> i64 {
        self.archive_id
    }

    /// Returns the catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Descriptions of the damage that the start has found; the error log holds them too.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Errors that the last archive on this directory recorded. The mark file no longer holds them.
    pub fn previous_errors(&self) -> &[PreviousError] {
        &self.mark.previous_errors
    }

    fn aeron(&mut self) -> &mut Aeron {
        self.aeron.as_mut().expect("an archive that serves has its client")
    }

    fn record_error(&mut self, text: &str) {
        self.mark.errors.record(self.now.epoch_ms, text);
        self.add_to(ERRORS, 1);
    }

    /// Counts and records a message on a control stream that has no session to answer. Errors of one kind share one
    /// entry of the error log, whatever their text.
    fn refuse_message(&mut self, kind: &str, detail: &str) {
        self.mark.errors.record_kind(kind, self.now.epoch_ms, &format!("{kind}: {detail}"));
        self.add_to(ERRORS, 1);
        self.add_to(CONTROL_REFUSED, 1);
    }

    fn add_to(&self, counter: usize, delta: i64) {
        if let Some(counter) = self.counters.ready.get(counter) {
            counter.add(delta);
        }
    }

    /// Records the time since the last duty cycle began.
    #[inline]
    fn observe_cycle(&mut self) {
        let Some(last_ns) = self.last_cycle_ns.replace(self.now.ns) else { return };
        let cycle_ns = self.now.ns - last_ns;
        if let Some(counter) = self.counters.ready.get(MAX_CYCLE_TIME) {
            counter.propose_max(cycle_ns);
        }
        if cycle_ns > self.context.conductor_cycle_threshold_ns {
            self.add_to(CYCLE_TIME_EXCEEDED, 1);
        }
    }

    /// Publishes the totals written to segments and read from them.
    #[inline]
    fn show_transfers(&self) {
        let (writes, reads) = self.io.totals();
        let values = [writes, reads].map(|totals| [totals.max_time_ns, totals.bytes, totals.time_ns]);
        for (counter, value) in self.counters.ready.iter().skip(TRANSFERS).zip(values.as_flattened()) {
            counter.set_ordered(*value);
        }
    }

    fn session(&mut self, id: i64) -> Option<&mut ControlSession> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    /// Submits catalog writes, with a sync where the level asks for one.
    fn write_catalog(&mut self, writes: Vec<CatalogWrite>) -> CatalogTicket {
        let file = self.catalog_file;
        let mut tickets: Vec<Ticket> = writes
            .into_iter()
            .map(|write| {
                let bytes = WriteBuffer::Owned(write.bytes);
                self.io.submit(Operation::Write { file, offset: write.offset, bytes })
            })
            .collect();
        let level = match self.context.catalog_file_sync_level {
            SyncLevel::None => return CatalogTicket { tickets, failure: None },
            SyncLevel::Data => FileSync::Data,
            SyncLevel::All => FileSync::All,
        };
        tickets.push(self.io.submit(Operation::Sync { file, level }));
        CatalogTicket { tickets, failure: None }
    }

    /// Makes the catalog survive a crash of the machine, whatever its sync level. Blocks, so only the closing archive
    /// calls it.
    fn sync_catalog(&mut self) {
        self.io.poll();
        let sync = Operation::Sync { file: self.catalog_file, level: FileSync::All };
        if let Err(error) = self.io.blocking(sync) {
            self.record_error(&error.to_string());
        }
    }

    /// True once all writes have finished; failures are recorded, and the first one stays in the ticket.
    fn is_written(&mut self, ticket: &mut CatalogTicket) -> bool {
        let mut failures = Vec::new();
        ticket.tickets.retain(|operation| match self.io.take(*operation) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => {
                failures.push(RecordingFailure::of(&error));
                false
            }
        });
        for failure in failures {
            self.record_error(&failure.message);
            ticket.failure.get_or_insert(failure);
        }
        ticket.tickets.is_empty()
    }

    fn poll_control(&mut self) -> usize {
        let mut work_count = 0;
        for stream in &mut self.control {
            let Some(subscription) = &mut stream.subscription else { continue };
            let assembler = &mut stream.assembler;
            let incoming = &mut self.incoming;
            work_count += subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, header| {
                    incoming.push_back(Incoming {
                        image_session_id: header.session_id(),
                        image_correlation_id: -1,
                        source_identity: String::new(),
                        bytes: message.to_vec(),
                    });
                });
            });
            for request in incoming.iter_mut().filter(|request| request.source_identity.is_empty()) {
                if let Some(image) = subscription.image_by_session_id(request.image_session_id) {
                    request.source_identity = image.source_identity().to_owned();
                    request.image_correlation_id = image.correlation_id();
                }
            }
        }
        work_count
    }

    fn take_requests(&mut self) -> usize {
        let mut work_count = 0;
        while let Some(request) = self.incoming.pop_front() {
            work_count += 1;
            match Request::decode(&request.bytes) {
                Ok(Some(decoded)) => {
                    let origin = Origin {
                        image_session_id: request.image_session_id,
                        image_correlation_id: request.image_correlation_id,
                        source: &request.source_identity,
                    };
                    self.on_request(&decoded, origin);
                }
                Ok(None) => self.add_to(CONTROL_REFUSED, 1),
                Err(error) => self.refuse_message("undecodable request", &error.to_string()),
            }
        }
        work_count
    }

    fn serve_sessions(&mut self) -> usize {
        let Some(aeron) = &mut self.aeron else { return 0 };
        let mut work_count = 0;
        for session in &mut self.sessions {
            work_count += session.do_work(aeron, &self.context.authenticator, self.now.ns);
            if let Some(allocator) = &self.context.log_allocator
                && matches!(session.state, SessionState::Authenticated | SessionState::Active)
                && let Some(image) = session.image_to_allocate.take()
            {
                allocator.allocate(image);
            }
        }
        let now_ns = self.now.ns;
        self.replay_tokens.retain(|token| now_ns <= token.deadline_ns);
        work_count += self.continue_listings();
        while let Some(index) = self.sessions.iter().position(|session| session.state == SessionState::Done) {
            let mut session = self.sessions.swap_remove(index);
            if let Some(reason) = session.abort_reason.take() {
                self.reject_client(&session, &reason);
            }
            self.replay_tokens.retain(|token| token.control_session_id != session.id);
            session.close();
            self.add_to(CONTROL_SESSIONS, -1);
        }
        work_count
    }

    /// Warns that the archive has ended a session, and rejects the image of its client, which so learns the reason.
    fn reject_client(&mut self, session: &ControlSession, reason: &str) {
        let text = format!("WARN: controlSessionId={} terminated: {reason}", session.id);
        self.mark.errors.record(self.now.epoch_ms, &text);
        let id = session.image_correlation_id;
        let mut images = self
            .control
            .iter_mut()
            .filter_map(|stream| stream.subscription.as_mut())
            .flat_map(|subscription| subscription.images());
        let Some(position) = images.find(|image| image.correlation_id() == id).map(|image| image.position())
        else {
            return;
        };
        if let Ok(command_id) = self.aeron().reject_image(id, position, reason) {
            self.rejections.push(command_id);
        }
    }

    /// Forgets the rejections that the driver has carried out or refused.
    fn take_rejections(&mut self) {
        let Some(aeron) = &mut self.aeron else { return };
        self.rejections.retain(|id| matches!(aeron.command_done(*id), Ok(false)));
    }

    /// Ends sessions whose client image is gone.
    fn check_images(&mut self) {
        for session in &mut self.sessions {
            let id = session.image_correlation_id;
            let is_there = self.control.iter_mut().any(|stream| {
                stream.subscription.as_mut().is_some_and(|subscription| {
                    subscription.images().iter().any(|image| image.correlation_id() == id)
                })
            });
            if !is_there {
                session.state = SessionState::Done;
            }
        }
    }
}

impl<M: Memory, S: Storage> Agent for Archive<M, S> {
    fn role_name(&self) -> &str {
        "archive"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.now = *now;
        if self.phase != Phase::Running {
            return self.go_on_starting().map_err(|error| AgentError::terminated(error.to_string()));
        }
        self.observe_cycle();
        let mut work_count = match &mut self.aeron {
            Some(aeron) => {
                let work_count =
                    aeron.do_work(now).map_err(|error| AgentError::terminated(error.to_string()))?;
                while let Some(event) = aeron.poll_event() {
                    if matches!(event, harrier_client::ClientEvent::UnavailableImage { .. }) {
                        self.incoming.shrink_to(64);
                    }
                }
                work_count
            }
            None => 0,
        };
        self.mark.update_activity(now);
        self.io.begin_cycle(now.ns);
        work_count += self.io.poll();
        work_count += self.poll_control();
        work_count += self.take_requests();
        self.check_images();
        work_count += self.serve_sessions();
        self.take_rejections();
        work_count += self.serve_replications();
        work_count += self.serve_recordings();
        work_count += self.serve_replays();
        work_count += self.serve_tasks();
        self.show_transfers();
        Ok(work_count)
    }

    fn next_deadline(&self) -> Option<i64> {
        let pause_ns = if self.phase == Phase::Running { 50_000_000 } else { 1_000_000 };
        Some(self.now.ns + pause_ns)
    }

    fn on_close(&mut self, now: &Now) {
        self.now = *now;
        for replication in &mut self.replications {
            replication.client.close();
        }
        self.end_all_recordings();
        for session in &mut self.sessions {
            session.close();
        }
        self.sync_catalog();
        if let Some(aeron) = &mut self.aeron {
            aeron.close();
        }
        self.mark.signal_terminated();
    }
}
