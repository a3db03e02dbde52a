//! Descriptions of an archive's files.

use std::fmt::Write as _;
use std::path::Path;

use harrier::archive::ArchiveMark;
use harrier::archive::catalog::{CatalogEntry, RecordingState};
use harrier::archive::tool::{RecordedFrame, SegmentFile};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::{Value, json};

use super::{files, mark, state_name};
use crate::aeron_directory::{AeronDirectory, LoggedError, read_errors};
use crate::{CommandError, print};

/// Shows the mark file and the recordings: valid ones, or all.
pub(super) fn all(directory: &Path, of_any_state: bool, as_json: bool) -> Result<(), CommandError> {
    let mark = mark(directory)?;
    let files = files(directory)?;
    let catalog = files.catalog();
    let entries: Vec<&CatalogEntry> = catalog
        .entries()
        .iter()
        .filter(|entry| of_any_state || entry.state == RecordingState::Valid)
        .collect();
    if as_json {
        return print::json(&json!({
            "mark": mark.as_ref().map(mark_to_json),
            "capacity": catalog.capacity(),
            "next_recording_id": catalog.next_recording_id(),
            "recordings": entries.iter().map(|entry| to_json(entry)).collect::<Value>(),
        }));
    }
    let mut text = mark.as_ref().map_or_else(|| "no mark file\n".to_owned(), mark_to_text);
    let _infallible = writeln!(
        text,
        "catalog capacity={} bytes, nextRecordingId={}, {} of {} recordings shown",
        catalog.capacity(),
        catalog.next_recording_id(),
        entries.len(),
        catalog.entries().len()
    );
    for entry in entries {
        text.push_str(&to_text(entry));
    }
    print::text(&text)
}

/// Shows one recording with its segment files.
pub(super) fn one(directory: &Path, recording_id: i64, as_json: bool) -> Result<(), CommandError> {
    let mut files = files(directory)?;
    let entry = files.entry(recording_id)?.clone();
    let segments = files.segments(recording_id)?;
    if as_json {
        let mut value = to_json(&entry);
        value["segments"] = segments.iter().map(|segment| json!(segment.name)).collect();
        return print::json(&value);
    }
    let names: Vec<&str> = segments.iter().map(|segment: &SegmentFile| segment.name.as_str()).collect();
    print::text(&format!("{}  segments={}\n", to_text(&entry), names.join(" ")))
}

pub(super) fn count(directory: &Path) -> Result<(), CommandError> {
    let files = files(directory)?;
    print::text(&format!("{}\n", files.catalog().valid_from(0).count()))
}

pub(super) fn pid(directory: &Path) -> Result<(), CommandError> {
    match mark(directory)? {
        Some(mark) => print::text(&format!("{}\n", mark.pid)),
        None => Err(no_mark(directory)),
    }
}

fn no_mark(directory: &Path) -> CommandError {
    CommandError::Failed(format!("no mark file in {}: no archive has run there", directory.display()))
}

/// Shows the errors of the archive and of its driver.
pub(super) fn errors(directory: &Path, as_json: bool) -> Result<(), CommandError> {
    let mark = mark(directory)?.ok_or_else(|| no_mark(directory))?;
    let own = read_errors(&mark.errors, 0);
    let driver = AeronDirectory::open(&mark.aeron_directory).map(|driver| driver.errors(0));
    if as_json {
        let of_driver = |errors: &Vec<LoggedError>| crate::errors::to_json(errors);
        return print::json(&json!({
            "archive": crate::errors::to_json(&own),
            "aeron_dir": mark.aeron_directory,
            "driver": driver.as_ref().ok().map(of_driver),
        }));
    }
    let mut text = format!("Archive error log:\n\n{}\n", print::errors(&own));
    let _infallible =
        writeln!(text, "Aeron driver error log (directory: {}):\n", mark.aeron_directory.display());
    match &driver {
        Ok(errors) => text.push_str(&print::errors(errors)),
        Err(error) => {
            let _infallible = writeln!(text, "none: {error}");
        }
    }
    print::text(&text)
}

/// Shows the frames of recordings.
pub(super) fn dump(
    directory: &Path,
    limit: Option<u64>,
    recording_id: Option<i64>,
) -> Result<(), CommandError> {
    let mut files = files(directory)?;
    if let Some(id) = recording_id {
        files.entry(id)?;
    }
    for entry in files.catalog().entries().to_vec() {
        let id = entry.descriptor.recording_id;
        if entry.state == RecordingState::Deleted || recording_id.is_some_and(|wanted| wanted != id) {
            continue;
        }
        print::text(&format!("\n{}", to_text(&entry)))?;
        let mut left = limit.unwrap_or(u64::MAX);
        let mut outcome = Ok(());
        files.for_each_frame(id, &mut |frame| {
            if left == 0 {
                return false;
            }
            left -= 1;
            outcome = print::text(&frame_to_text(frame));
            outcome.is_ok()
        })?;
        outcome?;
    }
    Ok(())
}

fn frame_to_text(frame: &RecordedFrame<'_>) -> String {
    let mut text = format!(
        "  {} position={} length={} flags={:#04x} sessionId={} streamId={} termId={} termOffset={} reservedValue={}\n",
        if frame.is_padding { "padding" } else { "data" },
        frame.position,
        frame.length,
        frame.flags,
        frame.session_id,
        frame.stream_id,
        frame.term_id,
        frame.term_offset,
        frame.reserved_value
    );
    for (line, bytes) in frame.payload.chunks(16).enumerate() {
        let _infallible = write!(text, "    {:06x} ", line * 16);
        for at in 0..16 {
            let _infallible = match bytes.get(at) {
                Some(byte) => write!(text, " {byte:02x}"),
                None => write!(text, "   "),
            };
        }
        let shown = |byte: &u8| if (32..127).contains(byte) { char::from(*byte) } else { '.' };
        let _infallible = writeln!(text, "  {}", bytes.iter().map(shown).collect::<String>());
    }
    text
}

fn to_text(entry: &CatalogEntry) -> String {
    let d = &entry.descriptor;
    let stop = if d.is_active() { "active".to_owned() } else { print::timestamp(d.stop_timestamp) };
    let length = if d.is_active() { -1 } else { d.stop_position - d.start_position };
    format!(
        "recordingId={} state={} startPosition={} stopPosition={} length={length}\n  \
         started={} stopped={stop} streamId={} sessionId={} initialTermId={}\n  \
         segmentFileLength={} termBufferLength={} mtuLength={} controlSessionId={} correlationId={} checksum={}\n  \
         originalChannel={}\n  strippedChannel={}\n  sourceIdentity={}\n",
        d.recording_id,
        state_name(entry),
        d.start_position,
        d.stop_position,
        print::timestamp(d.start_timestamp),
        d.stream_id,
        d.session_id,
        d.initial_term_id,
        d.segment_file_length,
        d.term_buffer_length,
        d.mtu_length,
        d.control_session_id,
        d.correlation_id,
        entry.checksum,
        d.original_channel,
        d.stripped_channel,
        d.source_identity
    )
}

fn to_json(entry: &CatalogEntry) -> Value {
    let d = &entry.descriptor;
    json!({
        "recording_id": d.recording_id,
        "state": state_name(entry),
        "start_position": d.start_position,
        "stop_position": d.stop_position,
        "start_ms": d.start_timestamp,
        "stop_ms": d.stop_timestamp,
        "stream_id": d.stream_id,
        "session_id": d.session_id,
        "initial_term_id": d.initial_term_id,
        "segment_file_length": d.segment_file_length,
        "term_buffer_length": d.term_buffer_length,
        "mtu_length": d.mtu_length,
        "control_session_id": d.control_session_id,
        "correlation_id": d.correlation_id,
        "checksum": entry.checksum,
        "original_channel": d.original_channel,
        "stripped_channel": d.stripped_channel,
        "source_identity": d.source_identity,
    })
}

fn activity(mark: &ArchiveMark) -> String {
    let now_ms = SystemClock.now().epoch_ms;
    match mark.activity_ms {
        -1 => "stopped".to_owned(),
        _ if mark.is_active(now_ms) => format!("active {} ms ago", now_ms - mark.activity_ms),
        at => format!("last active {}", print::timestamp(at)),
    }
}

fn mark_to_text(mark: &ArchiveMark) -> String {
    format!(
        "mark file {}: pid={} archiveId={} {}, started {}\n  \
         controlStreamId={} controlChannel={}\n  localControlStreamId={} localControlChannel={}\n  \
         eventsStreamId={} eventsChannel={}\n  aeronDirectory={}\n",
        mark.path.display(),
        mark.pid,
        mark.archive_id,
        activity(mark),
        print::timestamp(mark.start_ms),
        mark.control_stream_id,
        mark.control_channel,
        mark.local_control_stream_id,
        mark.local_control_channel,
        mark.events_stream_id,
        mark.events_channel,
        mark.aeron_directory.display()
    )
}

fn mark_to_json(mark: &ArchiveMark) -> Value {
    json!({
        "path": mark.path,
        "version": mark.version,
        "pid": mark.pid,
        "archive_id": mark.archive_id,
        "start_ms": mark.start_ms,
        "activity_ms": mark.activity_ms,
        "control_channel": mark.control_channel,
        "control_stream_id": mark.control_stream_id,
        "local_control_channel": mark.local_control_channel,
        "local_control_stream_id": mark.local_control_stream_id,
        "events_channel": mark.events_channel,
        "events_stream_id": mark.events_stream_id,
        "aeron_dir": mark.aeron_directory,
    })
}
