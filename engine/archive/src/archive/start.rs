//! Starting: directory, catalog, driver, counters, control streams (spec 03 §4.5, §6.1).

use std::path::Path;

use harrier_client::{Aeron, ClientError, Context};
use harrier_protocol::counter_types::{Key, type_id};
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, SyncLevel as FileSync, WriteBuffer,
};
use harrier_ringbuf::{Memory, Now, Rng};

use super::{Archive, ArchiveCounters, ArchiveError, ControlStream};
use crate::catalog::{self, CATALOG_FILE, Catalog, CatalogEntry, CatalogWrite, RecordingState};
use crate::context::{ArchiveContext, SyncLevel, TornTail};
use crate::counters;
use crate::descriptor::RecordingDescriptor;
use crate::io::Io;
use crate::mark_file::MarkFile;
use crate::recovery::{cut_torn_tail, find_stop_position};
use crate::segment;

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting { deadline_ns: i64 },
    AwaitingResources,
    Running,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Takes the directory, reads the catalog and ends recordings that were cut off. Blocks on files, not on the driver:
    /// the archive connects to it in its duty cycles.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub fn launch(context: ArchiveContext, memory: M, storage: S, now: &Now) -> Result<Self, ArchiveError> {
        context.validate()?;
        let mark = MarkFile::take(&context, &memory, now)?;
        let mut io = Io::new(storage, context.file_clock.clone());
        io.blocking(Operation::CreateDirectory { path: context.archive_directory.clone() })?;
        let (catalog, catalog_file) = open_catalog(&context, &mut io, now)?;
        let context_seed = context.seed;
        let first_session_id = i64::from(Rng::new(context.seed).next_i32() & i32::MAX);
        Ok(Self {
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
            incoming: Default::default(),
            sessions: Vec::new(),
            subscriptions: Vec::new(),
            space_checks: Vec::new(),
            starting: Vec::new(),
            recordings: Vec::new(),
            ending: Vec::new(),
            replays: Vec::new(),
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
        let simple = [
            (type_id::ARCHIVE_ERROR_COUNT, "Archive Errors"),
            (type_id::ARCHIVE_CONTROL_SESSIONS, "Archive Control Sessions"),
            (type_id::ARCHIVE_RECORDING_SESSIONS, "Archive Recording Sessions"),
            (type_id::ARCHIVE_REPLAY_SESSIONS, "Archive Replay Sessions"),
            // Conductor, recorder and replayer are one agent, which peers call SHARED.
            (type_id::ARCHIVE_MAX_CYCLE_TIME, "archive-conductor max cycle time in ns: SHARED"),
            (
                type_id::ARCHIVE_CYCLE_TIME_EXCEEDED,
                "archive-conductor work cycle time exceeded count: threshold=100ms SHARED",
            ),
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
        if self.control.iter().all(|stream| stream.subscription.is_some()) {
            self.phase = Phase::Running;
            self.mark.signal_ready(&self.now);
        }
        Ok(1)
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

fn open_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    now: &Now,
) -> Result<(Catalog, FileId), ArchiveError> {
    let path = context.archive_directory.join(CATALOG_FILE);
    let opened = io.blocking(Operation::Open { path: path.clone(), mode: OpenMode::CreateOrOpen })?;
    let Output::Opened(file, length) = opened else { unreachable!("opening a file opens it") };
    if length == 0 {
        return create_catalog(context, io, file);
    }
    let read = Operation::Read { file, offset: 0, length: length as usize, into: Vec::new() };
    let Output::Data(bytes) = io.blocking(read)? else { unreachable!("reading a file reads it") };
    if is_unborn(context, io, &bytes)? {
        return create_catalog(context, io, file);
    }
    let mut catalog = recover_catalog(context, io, &path, &bytes)?;
    if let Some(write) = catalog.clear_rest(&bytes) {
        write_blocking(io, file, write)?;
    }
    let cut_off: Vec<i64> = catalog
        .entries()
        .iter()
        .filter(|entry| entry.state == RecordingState::Valid)
        .filter(|entry| entry.descriptor.is_active() || may_be_torn(context, &catalog, entry))
        .map(|entry| entry.descriptor.recording_id)
        .collect();
    for recording_id in cut_off {
        let Some(recording) = catalog.get(recording_id) else { continue };
        let stop = end_recording(context, io, recording)?;
        let write = catalog.update(recording_id, |recording| {
            recording.stop_position = stop;
            recording.stop_timestamp = now.epoch_ms;
        });
        if let Some(write) = write {
            write_blocking(io, file, write)?;
        }
    }
    sync_blocking(io, file, context)?;
    Ok((catalog, file))
}

fn create_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    file: FileId,
) -> Result<(Catalog, FileId), ArchiveError> {
    let (catalog, write) = Catalog::create(context.catalog_capacity, context.record_checksum);
    write_blocking(io, file, write)?;
    io.blocking(Operation::SetLength { file, length: catalog.capacity() as u64 })?;
    sync_blocking(io, file, context)?;
    Ok((catalog, file))
}

/// Whether the machine died while the catalog was being created: its header is not whole, and there is nothing else.
fn is_unborn<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    bytes: &[u8],
) -> Result<bool, ArchiveError> {
    let has_entries = bytes.iter().skip(catalog::HEADER_LENGTH).any(|byte| *byte != 0);
    if has_entries || Catalog::read(bytes, context.record_checksum).is_ok() {
        return Ok(false);
    }
    let Output::Names(names) = io.blocking(Operation::List { path: context.archive_directory.clone() })?
    else {
        return Ok(false);
    };
    Ok(!names.iter().any(|name| name.ends_with(segment::SUFFIX)))
}

/// Reads the catalog. An entry that was being added when the machine died, under whose id nothing was recorded, was never
/// confirmed to anybody and is dropped.
fn recover_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    path: &Path,
    bytes: &[u8],
) -> Result<Catalog, ArchiveError> {
    let unusable = |error| ArchiveError::Catalog { path: path.to_owned(), error };
    let (catalog, damaged) = Catalog::recover(bytes, context.record_checksum).map_err(unusable)?;
    let Some(damaged) = damaged else { return Ok(catalog) };
    let Output::Names(names) = io.blocking(Operation::List { path: context.archive_directory.clone() })?
    else {
        return Err(unusable(damaged.error));
    };
    if names.iter().any(|name| segment::parse(name, damaged.recording_id).is_some()) {
        return Err(unusable(damaged.error));
    }
    Ok(catalog)
}

/// An update of an entry that the machine's death tore has a wrong checksum; its positions are not to be believed.
fn may_be_torn(context: &ArchiveContext, catalog: &Catalog, entry: &CatalogEntry) -> bool {
    context.torn_tail == TornTail::Cut
        && !catalog.is_checksum_right(entry)
        && !is_planted(Bug::TornCatalogEntry)
}

/// Where a recording ends that its archive did not stop.
fn end_recording<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    recording: &RecordingDescriptor,
) -> Result<i64, ArchiveError> {
    let (directory, checksum) = (&context.archive_directory, context.record_checksum);
    if context.torn_tail == TornTail::Refuse {
        return Ok(find_stop_position(io.storage(), directory, recording, checksum)?);
    }
    let sync = match context.file_sync_level {
        SyncLevel::None => None,
        SyncLevel::Data => Some(FileSync::Data),
        SyncLevel::All => Some(FileSync::All),
    };
    Ok(cut_torn_tail(io.storage(), directory, recording, checksum, sync)?)
}

fn write_blocking<S: Storage>(io: &mut Io<S>, file: FileId, write: CatalogWrite) -> Result<(), ArchiveError> {
    let bytes = WriteBuffer::Owned(write.bytes);
    io.blocking(Operation::Write { file, offset: write.offset, bytes })?;
    Ok(())
}

fn sync_blocking<S: Storage>(
    io: &mut Io<S>,
    file: FileId,
    context: &ArchiveContext,
) -> Result<(), ArchiveError> {
    if context.catalog_file_sync_level > SyncLevel::None {
        io.blocking(Operation::Sync { file, level: FileSync::All })?;
        io.blocking(Operation::SyncDirectory { path: context.archive_directory.clone() })?;
    }
    Ok(())
}
