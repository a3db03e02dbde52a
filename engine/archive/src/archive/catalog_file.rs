//! Opening the catalog: reading it, and ending recordings that a crash has cut off (spec 03 §4.5).

use std::collections::BTreeMap;
use std::path::Path;

use harrier_ringbuf::Now;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, SyncLevel as FileSync, WriteBuffer,
};

use super::ArchiveError;
use crate::catalog::{
    self, CATALOG_FILE, Catalog, CatalogEntry, CatalogWrite, Damage, RecordingState, Salvaged,
};
use crate::checksum::Checksum;
use crate::context::{ArchiveContext, SyncLevel, TornTail};
use crate::descriptor::RecordingDescriptor;
use crate::io::Io;
use crate::recovery::{cut_sealed_tail, cut_torn_tail, find_stop_position, read_seal};
use crate::seal::{SegmentSeal, shape_of};
use crate::segment;

/// A catalog and its file.
pub(super) struct OpenedCatalog {
    pub(super) catalog: Catalog,
    pub(super) file: FileId,
    /// Descriptions of damaged entries.
    pub(super) damage: Vec<String>,
}

/// Reads or creates the catalog and ends the recordings that a crash has cut off. `was_ours` is true when no other
/// implementation has run on the directory since. Blocks.
pub(super) fn open_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    was_ours: bool,
    now: &Now,
) -> Result<OpenedCatalog, ArchiveError> {
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
    let (mut catalog, mut damage) = read_catalog(context, io, &path, file, &bytes)?;
    damage.extend(confirm_entries(context, io, &mut catalog, file, &bytes, was_ours)?);
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
    let damage = damage.iter().map(|found| describe(&path, found)).collect();
    Ok(OpenedCatalog { catalog, file, damage })
}

/// Reads the catalog. An archive on its own sets damaged entries aside, marks them and returns them; the archive of a node
/// refuses them, because it must not lose its log.
fn read_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    path: &Path,
    file: FileId,
    bytes: &[u8],
) -> Result<(Catalog, Vec<Damage>), ArchiveError> {
    let recovered = recover_catalog(context, io, path, bytes);
    let is_damaged = match &recovered {
        Ok(catalog) => catalog.hides_entries(bytes),
        Err(error) => matches!(error, ArchiveError::Catalog { .. }),
    };
    if !is_damaged || context.torn_tail == TornTail::Cut {
        return Ok((recovered?, Vec::new()));
    }
    let Salvaged { catalog, writes, damage } = Catalog::salvage(bytes, context.record_checksum)
        .map_err(|error| ArchiveError::Catalog { path: path.to_owned(), error })?;
    for write in writes {
        write_blocking(io, file, write)?;
    }
    Ok((catalog, damage))
}

/// Marks the entries that neither their checksums nor the seals of their segments confirm, and returns them.
fn confirm_entries<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    catalog: &mut Catalog,
    file: FileId,
    bytes: &[u8],
    was_ours: bool,
) -> Result<Vec<Damage>, ArchiveError> {
    let mut unconfirmed = check_checksums(context, catalog, bytes);
    if !was_ours {
        // Aeron's archive leaves wrong checksums behind a recovery, so they count from now on.
        for (recording_id, _) in unconfirmed.drain(..) {
            if let Some(write) = catalog.update(recording_id, |_| ()) {
                write_blocking(io, file, write)?;
            }
        }
    }
    for found in check_seals(context, io, catalog, was_ours)? {
        if unconfirmed.iter().all(|(recording_id, _)| *recording_id != found.0) {
            unconfirmed.push(found);
        }
    }
    let mut damage = Vec::new();
    for (recording_id, found) in unconfirmed {
        if let Some(write) = catalog.invalidate(recording_id) {
            write_blocking(io, file, write)?;
        }
        damage.push(found);
    }
    Ok(damage)
}

/// Finds the valid entries that their checksums do not confirm. The archive of a node recovers them
/// ([`may_be_torn`]), so only an archive on its own asks.
fn check_checksums(context: &ArchiveContext, catalog: &Catalog, bytes: &[u8]) -> Vec<(i64, Damage)> {
    if context.torn_tail == TornTail::Cut || context.record_checksum.is_none() {
        return Vec::new();
    }
    let entries = catalog.entries().iter().filter(|entry| entry.state == RecordingState::Valid);
    let wrong = entries.filter(|entry| entry.checksum != 0 && !entry.is_confirmed(bytes));
    let reason = "it does not match its checksum".to_owned();
    wrong
        .map(|entry| (entry.descriptor.recording_id, Damage { offset: entry.offset, reason: reason.clone() }))
        .collect()
}

/// Describes a damaged entry for the error log.
fn describe(path: &Path, damage: &Damage) -> String {
    format!(
        "{}: entry at offset {} is damaged: {}; it is marked INVALID, all others are served",
        path.display(),
        damage.offset,
        damage.reason
    )
}

fn create_catalog<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    file: FileId,
) -> Result<OpenedCatalog, ArchiveError> {
    let (catalog, write) = Catalog::create(context.catalog_capacity, context.record_checksum);
    write_blocking(io, file, write)?;
    io.blocking(Operation::SetLength { file, length: catalog.capacity() as u64 })?;
    sync_blocking(io, file, context)?;
    Ok(OpenedCatalog { catalog, file, damage: Vec::new() })
}

/// True when the machine crashed while the catalog was being created: the header is incomplete and no other file
/// exists.
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

/// Reads the catalog. Drops an entry whose addition a machine crash interrupted and under whose id nothing was
/// recorded: no client has received that id.
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

/// True when a machine crash may have torn the entry's update: its checksum is wrong, so its positions are unreliable.
fn may_be_torn(context: &ArchiveContext, catalog: &Catalog, entry: &CatalogEntry) -> bool {
    context.torn_tail == TornTail::Cut
        && !catalog.is_checksum_right(entry)
        && !is_planted(Bug::TornCatalogEntry)
}

/// Finds and writes the stop position of a recording that the archive did not stop.
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
    Ok(match checksum {
        Some(Checksum::Crc32c) => cut_sealed_tail(io.storage(), directory, recording, sync)?,
        checksum => cut_torn_tail(io.storage(), directory, recording, checksum, sync)?,
    })
}

/// Checks the catalog against the segment seals (docs/protocol/own-files.md). A recording that another implementation
/// may have changed loses its seals. Returns the entries that neither their checksum nor their seal confirms; the archive
/// of a node refuses them.
fn check_seals<S: Storage>(
    context: &ArchiveContext,
    io: &mut Io<S>,
    catalog: &Catalog,
    was_ours: bool,
) -> Result<Vec<(i64, Damage)>, ArchiveError> {
    let directory = &context.archive_directory;
    let mut unconfirmed = Vec::new();
    let damaged = |reason: String| ArchiveError::Damaged { path: directory.join(CATALOG_FILE), reason };
    let Output::Names(names) = io.blocking(Operation::List { path: directory.clone() })? else {
        return Ok(unconfirmed);
    };
    let mut seals: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (recording_id, base) in names.iter().filter_map(|name| segment::parse_seal(name)) {
        if names.binary_search(&segment::file_name(recording_id, base)).is_ok() {
            seals.entry(recording_id).or_default().push(base);
        }
    }
    for (recording_id, bases) in seals {
        let Some(entry) = catalog.entry(recording_id) else {
            if catalog.may_be_unreadable(recording_id) {
                continue;
            }
            return Err(damaged(format!(
                "it has no entry of recording {recording_id}, whose segments are there"
            )));
        };
        let Some(last) = bases.iter().max().copied() else { continue };
        let seal = read_seal(io.storage(), directory, recording_id, last)?;
        let recording = &entry.descriptor;
        let is_of_seal = |seal: &SegmentSeal| {
            seal.to == recording.stop_position && seal.session_id == recording.session_id
        };
        if !was_ours && !seal.as_ref().is_some_and(is_of_seal) {
            for base in bases {
                let path = segment::seal_path(directory, recording_id, base);
                io.blocking(Operation::Remove { path })?;
            }
            continue;
        }
        let Some(seal) = seal.filter(|_| !catalog.is_checksum_right(entry)) else { continue };
        if seal.shape != shape_of(recording) {
            let offset = entry.offset;
            let text = "matches neither its checksum nor the seal of its segment";
            if context.torn_tail == TornTail::Cut {
                return Err(damaged(format!("the entry of recording {recording_id}, at {offset}, {text}")));
            }
            unconfirmed.push((recording_id, Damage { offset, reason: format!("it {text}") }));
        }
    }
    Ok(unconfirmed)
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
