//! Starting: directory, catalog, driver, counters, control streams (spec 03 §4.5, §6.1).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_client::{Aeron, ClientError, Context};
use harrier_protocol::counter_types::{Key, type_id};
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::memory::check_apart;
use harrier_ringbuf::storage::{Operation, Storage};
use harrier_ringbuf::{Memory, Now, Rng};

use super::catalog_file::{OpenedCatalog, open_catalog};
use super::events::RecordingEvents;
use super::{Archive, ArchiveCounters, ArchiveError, ControlStream, ERRORS};
use crate::context::ArchiveContext;
use crate::counters;
use crate::io::Io;
use crate::mark_file::{MarkFile, clear_directory};

/// Stage of the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting { deadline_ns: i64 },
    AwaitingResources,
    Running,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Locks the directory, reads the catalog and ends recordings that were cut off. Blocks on files only: the archive
    /// connects to the driver in its duty cycles.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub fn launch(context: ArchiveContext, memory: M, storage: S, now: &Now) -> Result<Self, ArchiveError> {
        context.validate()?;
        let driver = ("driver directory", context.aeron_directory.as_path());
        check_apart(&memory, driver, &[("archive directory", &context.archive_directory)])?;
        if context.delete_directory_on_start {
            clear_directory(&context, &memory, now)?;
        }
        let mut mark = MarkFile::take(&context, &memory, now)?;
        let mut io = Io::new(storage, context.file_clock.clone());
        io.blocking(Operation::CreateDirectory { path: context.archive_directory.clone() })?;
        let OpenedCatalog { catalog, file: catalog_file, damage } =
            open_catalog(&context, &mut io, mark.was_ours, now)?;
        for text in &damage {
            mark.errors.record(now.epoch_ms, text);
        }
        let context_seed = context.seed;
        let first_session_id = i64::from(Rng::new(context.seed).next_i32() & i32::MAX);
        Ok(Self {
            ready: Arc::default(),
            warnings: damage,
            phase: Phase::Connecting { deadline_ns: now.ns + context.driver_timeout_ns },
            archive_id: context.archive_id.unwrap_or(-1),
            next_session_id: first_session_id,
            context,
            memory,
            mark,
            io,
            catalog,
            catalog_file,
            aeron: None,
            now: *now,
            last_cycle_ns: None,
            counters: ArchiveCounters::default(),
            control: Vec::new(),
            events: None,
            incoming: Default::default(),
            sessions: Vec::new(),
            rejections: Vec::new(),
            subscriptions: Vec::new(),
            space_checks: Vec::new(),
            starting: Vec::new(),
            recordings: Vec::new(),
            ending: Vec::new(),
            replays: Vec::new(),
            waiting_replays: Vec::new(),
            next_replay: 1,
            replications: Vec::new(),
            replay_tokens: Vec::new(),
            rng: Rng::new(context_seed.rotate_left(17)),
            tasks: Vec::new(),
            background: Vec::new(),
        })
    }

    pub(super) fn go_on_starting(&mut self) -> Result<usize, ArchiveError> {
        match self.phase {
            Phase::Connecting { deadline_ns } => self.connect(deadline_ns),
            Phase::AwaitingResources => self.await_resources(),
            Phase::Running => Ok(0),
        }
    }

    fn connect(&mut self, deadline_ns: i64) -> Result<usize, ArchiveError> {
        let context = Context::new(&self.context.aeron_directory).client_name("archive");
        let mut aeron = match Aeron::connect(context, self.memory.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= deadline_ns => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        if self.archive_id == -1 {
            self.archive_id = aeron.next_correlation_id();
        }
        let id = self.archive_id;
        let threshold = duration_text(self.context.conductor_cycle_threshold_ns);
        let exceeded =
            format!("archive-conductor work cycle time exceeded count: threshold={threshold} SHARED");
        let simple = [
            (type_id::ARCHIVE_ERROR_COUNT, "Archive Errors"),
            (type_id::ARCHIVE_CONTROL_SESSIONS, "Archive Control Sessions"),
            (type_id::ARCHIVE_RECORDING_SESSIONS, "Archive Recording Sessions"),
            (type_id::ARCHIVE_REPLAY_SESSIONS, "Archive Replay Sessions"),
            // Conductor, recorder and replayer form one agent; Aeron calls this mode SHARED.
            (type_id::ARCHIVE_MAX_CYCLE_TIME, "archive-conductor max cycle time in ns: SHARED"),
            (type_id::ARCHIVE_CYCLE_TIME_EXCEEDED, &exceeded),
            (type_id::ARCHIVE_CONTROL_REFUSED, "Archive Refused Control Messages"),
            (type_id::ARCHIVE_RECORDER_MAX_WRITE_TIME, "archive-recorder max write time in ns"),
            (type_id::ARCHIVE_RECORDER_TOTAL_WRITE_BYTES, "archive-recorder total write bytes"),
            (type_id::ARCHIVE_RECORDER_TOTAL_WRITE_TIME, "archive-recorder total write time in ns"),
            (type_id::ARCHIVE_REPLAYER_MAX_READ_TIME, "archive-replayer max read time in ns"),
            (type_id::ARCHIVE_REPLAYER_TOTAL_READ_BYTES, "archive-replayer total read bytes"),
            (type_id::ARCHIVE_REPLAYER_TOTAL_READ_TIME, "archive-replayer total read time in ns"),
        ];
        for (type_id, text) in simple {
            let label = counters::label(text, id);
            let pending = aeron.add_counter(type_id, Key::of_i64(id).as_bytes(), label.as_str())?;
            self.counters.pending.push(pending);
        }
        let mut streams =
            vec![(self.context.local_control_channel.clone(), self.context.local_control_stream_id)];
        if let Some(channel) = &self.context.control_channel {
            streams.push((channel.clone(), self.context.control_stream_id));
        }
        for (channel, stream_id) in streams {
            let channel = with_sparse(&channel, self.context.control_term_buffer_sparse);
            let registration_id = aeron.add_subscription(&channel, stream_id)?;
            let assembler = FragmentAssembler::new();
            self.control.push(ControlStream { registration_id, subscription: None, assembler });
        }
        if self.context.recording_events_enabled {
            let (channel, stream_id) =
                (&self.context.recording_events_channel, self.context.recording_events_stream_id);
            self.events = Some(RecordingEvents::new(aeron.add_exclusive_publication(channel, stream_id)?));
        }
        self.mark.set_archive_id(id);
        self.aeron = Some(aeron);
        self.phase = Phase::AwaitingResources;
        Ok(1)
    }

    fn await_resources(&mut self) -> Result<usize, ArchiveError> {
        let Some(aeron) = &mut self.aeron else { return Ok(0) };
        aeron.do_work(&self.now)?;
        while let Some(id) = self.counters.pending.first().copied() {
            let Some(counter) = aeron.counter(id)? else { return Ok(0) };
            self.counters.ready.push(counter);
            self.counters.pending.remove(0);
        }
        for stream in &mut self.control {
            if stream.subscription.is_none() {
                stream.subscription = aeron.subscription(stream.registration_id)?;
            }
        }
        if let Some(events) = &mut self.events
            && events.publication.is_none()
        {
            events.publication = aeron.exclusive_publication(events.registration_id)?;
            if events.publication.is_none() {
                return Ok(0);
            }
        }
        if self.control.iter().all(|stream| stream.subscription.is_some()) {
            self.phase = Phase::Running;
            self.add_to(ERRORS, self.warnings.len() as i64);
            self.mark.signal_ready(&self.now);
            self.ready.store(true, Ordering::Release);
        }
        Ok(1)
    }
}

/// Formats a time with the longest unit that keeps it whole.
fn duration_text(ns: i64) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    match units.into_iter().find(|(unit, _)| ns != 0 && ns % unit == 0) {
        Some((unit, name)) => format!("{}{name}", ns / unit),
        None => format!("{ns}ns"),
    }
}

fn with_sparse(channel: &str, is_sparse: bool) -> String {
    match ChannelUri::parse(channel) {
        Ok(mut uri) => {
            uri.put_if_absent(key::SPARSE, is_sparse);
            uri.to_string()
        }
        Err(_) => channel.to_owned(),
    }
}
