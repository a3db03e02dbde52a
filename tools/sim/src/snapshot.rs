//! A service that writes a long snapshot inside a callback: it adds a publication, lets the archive record it, fills
//! term after term and waits until everything is in the archive's files, while all other agents go on.

use std::path::Path;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, find_recording_counter};
use harrier_archive::{SourceLocation, segment};
use harrier_client::{Aeron, Context};
use harrier_cluster::service::Cluster;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::position::HEADER_LENGTH;

use crate::disk::Disk;
use crate::kernel::Kernel;
use crate::memory::SimMemory;

/// Channel of snapshots: terms of 64 KiB, frames of 8 KiB.
const CHANNEL: &str = "aeron:ipc?term-length=64k|mtu=8k|alias=snapshot";
const STREAM_ID: i32 = 777;
/// Length of a message of a snapshot, bytes; such messages are not fragmented.
const CHUNK_LENGTH: usize = 8_000;

/// Place where snapshots are written.
#[derive(Clone)]
pub struct SnapshotPlace {
    /// The simulated world.
    pub kernel: Kernel,
    /// Host of the node.
    pub host: usize,
    /// Memory of the node.
    pub memory: SimMemory,
    /// Directory of the node's driver.
    pub aeron_directory: String,
    /// Length of a snapshot, bytes.
    pub length: usize,
    /// Seed of ids.
    pub seed: u64,
}

/// A snapshot in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Recording of the snapshot.
    pub recording_id: i64,
    /// Position of the end of the snapshot.
    pub end_position: i64,
}

struct Writer<'a, 'b> {
    place: &'a SnapshotPlace,
    cluster: &'a mut Cluster<'b>,
    aeron: Aeron,
    archive: ArchiveClient,
    answer: Option<ArchiveAnswer>,
}

impl Writer<'_, '_> {
    /// Lets the other agents run until `ready` returns a value.
    fn wait<T>(
        &mut self,
        mut ready: impl FnMut(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        loop {
            let now = self.place.kernel.now(self.place.host);
            self.aeron.do_work(&now).map_err(|error| error.to_string())?;
            self.archive.poll(&mut self.aeron, &now).map_err(|error| error.to_string())?;
            while let Some(answer) = self.archive.poll_answer() {
                if !matches!(answer, ArchiveAnswer::Signal { .. }) {
                    self.answer = Some(answer);
                }
            }
            if let Some(done) = ready(self)? {
                return Ok(done);
            }
            self.cluster.idle(0);
        }
    }
}

/// Writes a snapshot; returns when the archive has all of it.
///
/// # Errors
///
/// The error of the driver or of the archive.
pub fn write(place: &SnapshotPlace, cluster: &mut Cluster<'_>) -> Result<Snapshot, String> {
    let now = place.kernel.now(place.host);
    let context = Context::new(&place.aeron_directory).client_name("snapshot");
    let aeron = Aeron::connect(context, place.memory.clone(), &now).map_err(|error| error.to_string())?;
    let archive = ArchiveClient::new(ArchiveClientContext {
        control_response_stream_id: 130,
        seed: place.seed,
        ..ArchiveClientContext::ipc()
    });
    let mut writer = Writer { place, cluster, aeron, archive, answer: None };
    let id = writer.aeron.add_exclusive_publication(CHANNEL, STREAM_ID).map_err(|error| error.to_string())?;
    let mut publication =
        writer.wait(|writer| writer.aeron.exclusive_publication(id).map_err(|error| error.to_string()))?;
    writer.wait(|writer| Ok(writer.archive.is_connected().then_some(())))?;
    let session_id = publication.session_id();
    let channel = format!("aeron:ipc?session-id={session_id}");
    let request = writer
        .archive
        .start_recording(&writer.aeron, &channel, STREAM_ID, SourceLocation::Local, true)
        .map_err(|error| error.to_string())?;
    writer.wait(|writer| match writer.answer.take() {
        Some(ArchiveAnswer::Ok { correlation_id, .. }) if correlation_id == request => Ok(Some(())),
        Some(ArchiveAnswer::Error { message, .. }) => Err(message),
        _ => Ok(None),
    })?;
    let archive_id = writer.archive.archive_id();
    let (counter_id, recording_id) = writer
        .wait(|writer| Ok(find_recording_counter(writer.aeron.counters(), session_id, Some(archive_id))))?;
    let mut chunk = vec![0; CHUNK_LENGTH];
    let mut end_position = 0;
    for number in 0..place.length.div_ceil(CHUNK_LENGTH) {
        fill(&mut chunk, number);
        end_position = writer.wait(|_| match publication.offer(&chunk) {
            Ok(position) => Ok(Some(position)),
            Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => Ok(None),
            Err(error) => Err(error.to_string()),
        })?;
    }
    writer.wait(|writer| Ok((writer.aeron.counters().value(counter_id) >= end_position).then_some(())))?;
    drop(publication);
    writer.archive.close();
    writer.aeron.close();
    Ok(Snapshot { recording_id, end_position })
}

fn fill(chunk: &mut [u8], number: usize) {
    let word = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    for part in chunk.chunks_exact_mut(8) {
        part.copy_from_slice(&word);
    }
}

/// Reads a snapshot from the archive's files.
///
/// # Errors
///
/// The first difference from what was written.
pub fn verify(
    disk: &Disk,
    directory: &Path,
    snapshot: &Snapshot,
    length: usize,
    segment_length: usize,
) -> Result<(), String> {
    let mut expected = vec![0; CHUNK_LENGTH];
    let (mut position, mut number) = (0_usize, 0);
    while (position as i64) < snapshot.end_position {
        let base = position / segment_length * segment_length;
        let path = segment::path(directory, snapshot.recording_id, base as i64);
        let Some(inode) = disk.find(&path) else { return Err(format!("{} is missing", path.display())) };
        let bytes = disk.bytes(inode);
        let offset = position - base;
        let header = bytes.get(offset..offset + HEADER_LENGTH).ok_or("a segment is cut")?;
        let frame_length = header.first_chunk().map_or(0, |word| i32::from_le_bytes(*word)) as usize;
        if frame_length < HEADER_LENGTH {
            return Err(format!("frame of {frame_length} bytes at {position}"));
        }
        let is_padding = u16::from_le_bytes([header[6], header[7]]) == 0;
        if !is_padding {
            fill(&mut expected, number);
            if bytes.get(offset + HEADER_LENGTH..offset + frame_length) != Some(&expected[..]) {
                return Err(format!("message {number} at {position} is not what was written"));
            }
            number += 1;
        }
        position += frame_length.next_multiple_of(32);
    }
    if number != length.div_ceil(CHUNK_LENGTH) {
        return Err(format!("{number} messages in {position} bytes"));
    }
    Ok(())
}
