//! Snapshots of the consensus module: at one log position each life writes the same bytes, whether it began with an
//! earlier snapshot or with the log alone.

use std::collections::BTreeMap;
use std::path::Path;

use harrier_archive::segment;
use harrier_cluster::recording_log;
use harrier_ringbuf::position::HEADER_LENGTH;

use super::{NODE, Run, SEGMENT_LENGTH};
use crate::disk::Disk;

/// Payloads of a snapshot's messages.
type Messages = Vec<Vec<u8>>;

/// A snapshot that was found in the archive.
#[derive(Debug, Default)]
struct Seen {
    /// Its last recording.
    recording_id: i64,
    messages: Messages,
}

/// The snapshots of a run, by their log positions.
#[derive(Debug, Default)]
pub(super) struct ModuleSnapshots {
    by_position: BTreeMap<i64, Seen>,
}

impl ModuleSnapshots {
    /// Reads all snapshots that recording.log names; returns how many were taken again since the last call.
    ///
    /// # Errors
    ///
    /// The first snapshot that differs from an earlier one at its position.
    fn look(&mut self, disk: &Disk) -> Result<u64, String> {
        let path = Path::new("/var/node/cluster/recording.log");
        let Some(inode) = disk.find(path) else { return Ok(0) };
        let entries = recording_log::parse(path, disk.bytes(inode)).map_err(|error| error.to_string())?;
        let mut again = 0;
        for entry in entries.iter().filter(|entry| entry.is_module_snapshot()) {
            let recording_id = entry.recording_id;
            let seen = self.by_position.get(&entry.log_position);
            if seen.is_some_and(|seen| seen.recording_id == recording_id) {
                continue;
            }
            let messages = read(disk, recording_id)?;
            if let Some(seen) = seen {
                again += 1;
                if seen.messages != messages {
                    return Err(difference(entry.log_position, &seen.messages, &messages));
                }
            }
            self.by_position.insert(entry.log_position, Seen { recording_id, messages });
        }
        Ok(again)
    }
}

fn difference(position: i64, before: &Messages, now: &Messages) -> String {
    let at = before.iter().zip(now).position(|(before, now)| before != now);
    let at = at.unwrap_or(before.len().min(now.len()));
    format!(
        "of the module at {position} had {} messages, now {}; message {at} was {:?}, now {:?}",
        before.len(),
        now.len(),
        before.get(at),
        now.get(at)
    )
}

/// Returns the frames of a recording without the fields that differ between recordings.
fn read(disk: &Disk, recording_id: i64) -> Result<Messages, String> {
    let (mut messages, mut position) = (Messages::new(), 0_usize);
    loop {
        let base = position / SEGMENT_LENGTH * SEGMENT_LENGTH;
        let path = segment::path(Path::new("/var/node/archive"), recording_id, base as i64);
        let Some(inode) = disk.find(&path) else { break };
        let offset = position - base;
        let bytes = disk.bytes(inode);
        let Some(header) = bytes.get(offset..offset + HEADER_LENGTH) else { break };
        let length = header.first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
        if length <= 0 {
            break;
        }
        let end = offset + length as usize;
        let payload = bytes.get(offset + HEADER_LENGTH..end).ok_or("a segment is cut")?;
        let is_padding = u16::from_le_bytes([header[6], header[7]]) == 0;
        if !is_padding {
            messages.push(payload.to_vec());
        }
        position += (length as usize).next_multiple_of(32);
    }
    if messages.is_empty() {
        return Err(format!("of the module in recording {recording_id} is empty"));
    }
    Ok(messages)
}

impl Run {
    /// Compares the snapshots that are in use with earlier ones.
    pub(super) fn compare_module_snapshots(&mut self) {
        let outcome = {
            let state = self.kernel.state();
            self.module_snapshots.look(&state.hosts[NODE].disk)
        };
        match outcome {
            Ok(again) => self.kernel.state().coverage.add("module snapshot taken again", again),
            Err(text) => self.violate("snapshot", text),
        }
    }
}
