//! Descriptions and changes of a member's files.

use std::fmt::Write as _;
use std::path::Path;

use harrier::cluster::recording_log::{Entry, EntryType};
use harrier::cluster::tool::{
    ClusterMark, invalidate_latest_snapshot, marks, module_mark, rebuild_recording_log,
    recording_log_entries, seed_recording_log_from_snapshot, sort_recording_log,
};
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use serde_json::{Value, json};

use crate::aeron_directory::{AeronDirectory, read_errors};
use crate::{CommandError, print};

/// Returns the mark files; it is an error when there is none.
pub(super) fn all_marks(directory: &Path) -> Result<Vec<ClusterMark>, CommandError> {
    let all = marks(&MappedMemory, directory)?;
    if all.is_empty() {
        // This error says which file is missing.
        module_mark(&MappedMemory, directory)?;
    }
    Ok(all)
}

pub(super) fn describe(directory: &Path, as_json: bool) -> Result<(), CommandError> {
    let all = all_marks(directory)?;
    if as_json {
        return print::json(&all.iter().map(mark_to_json).collect());
    }
    print::text(&all.iter().map(mark_to_text).collect::<String>())
}

pub(super) fn pid(directory: &Path) -> Result<(), CommandError> {
    let all = all_marks(directory)?;
    print::text(&format!("{}\n", all[0].header.pid))
}

/// Shows the errors of all components and of their driver.
pub(super) fn errors(directory: &Path, as_json: bool) -> Result<(), CommandError> {
    let all = all_marks(directory)?;
    let aeron_directory = all.iter().map(|mark| &mark.header.aeron_directory).find(|path| !path.is_empty());
    let driver = aeron_directory
        .map(|path| AeronDirectory::open(Path::new(path)).map(|directory| directory.errors(0)));
    if as_json {
        let components: Value = all
            .iter()
            .map(|mark| {
                let errors = crate::errors::to_json(&read_errors(&mark.errors, 0));
                json!({ "component": mark.component(), "service_id": mark.header.service_id, "errors": errors })
            })
            .collect();
        let of_driver = driver.and_then(Result::ok).map(|errors| crate::errors::to_json(&errors));
        return print::json(&json!({
            "components": components,
            "aeron_dir": aeron_directory,
            "driver": of_driver,
        }));
    }
    let mut text = String::new();
    for mark in &all {
        let _infallible = writeln!(text, "{}\n{}", head(mark), print::errors(&read_errors(&mark.errors, 0)));
    }
    let name = aeron_directory.map_or("unknown", String::as_str);
    let _infallible = writeln!(text, "Aeron driver error log (directory: {name}):\n");
    text.push_str(&match driver {
        Some(Ok(errors)) => print::errors(&errors),
        Some(Err(error)) => format!("none: {error}\n"),
        None => "none: the mark file names no driver\n".to_owned(),
    });
    print::text(&text)
}

pub(super) fn recording_log(directory: &Path, as_json: bool) -> Result<(), CommandError> {
    let entries = recording_log_entries(&mut FileStorage::inline(), directory)?;
    if as_json {
        return print::json(&entries.iter().map(entry_to_json).collect());
    }
    let mut text = String::new();
    for entry in &entries {
        text.push_str(&entry_to_text(entry));
    }
    let _infallible = writeln!(text, "{} entries", entries.len());
    print::text(&text)
}

pub(super) fn sort(directory: &Path) -> Result<(), CommandError> {
    let mut storage = FileStorage::inline();
    if sort_recording_log(&MappedMemory, &mut storage, directory, &SystemClock.now())? {
        return print::text("recording.log is sorted now\n");
    }
    print::text("recording.log was sorted already\n")?;
    Err(CommandError::Answer(1))
}

pub(super) fn seed(directory: &Path) -> Result<(), CommandError> {
    let mut storage = FileStorage::inline();
    let seeded =
        seed_recording_log_from_snapshot(&MappedMemory, &mut storage, directory, &SystemClock.now())?;
    let mut text = format!("the recording log before is {}\n", seeded.backup.display());
    if seeded.entries.is_empty() {
        text.push_str("there is no valid snapshot: recording.log is empty now\n");
    }
    text.extend(seeded.entries.iter().map(entry_to_text));
    print::text(&text)
}

pub(super) fn rebuild(directory: &Path, archive: Option<&Path>) -> Result<(), CommandError> {
    let beside = directory.parent().map(|parent| parent.join("archive")).filter(|path| path.exists());
    let archive = archive.or(beside.as_deref()).map(|path| (path, FileStorage::inline()));
    let mut storage = FileStorage::inline();
    let rebuilt = rebuild_recording_log(&MappedMemory, &mut storage, directory, archive, &SystemClock.now())?;
    let mut text = format!("recording.log was written from {}\n", rebuilt.source);
    if let Some(backup) = &rebuilt.backup {
        let _infallible = writeln!(text, "the recording log before is {}", backup.display());
    }
    text.extend(rebuilt.entries.iter().map(entry_to_text));
    print::text(&text)
}

pub(super) fn invalidate(directory: &Path) -> Result<(), CommandError> {
    let mut storage = FileStorage::inline();
    if invalidate_latest_snapshot(&MappedMemory, &mut storage, directory, &SystemClock.now())? {
        return print::text("the latest snapshot is invalid now\n");
    }
    Err(CommandError::Failed(format!("there is no valid snapshot in {}", directory.display())))
}

/// Formats an entry as a line.
pub(super) fn entry_to_text(entry: &Entry) -> String {
    let endpoint = match entry.archive_endpoint.as_str() {
        "" => String::new(),
        endpoint => format!(" archiveEndpoint={endpoint}"),
    };
    format!(
        "{} type={} isValid={} leadershipTermId={} termBaseLogPosition={} logPosition={} serviceId={} recordingId={} \
         timestamp={}{endpoint}\n",
        entry.entry_index,
        type_name(entry),
        entry.is_valid,
        entry.leadership_term_id,
        entry.term_base_log_position,
        entry.log_position,
        entry.service_id,
        entry.recording_id,
        entry.timestamp
    )
}

/// Formats an entry as an object.
pub(super) fn entry_to_json(entry: &Entry) -> Value {
    json!({
        "index": entry.entry_index,
        "type": type_name(entry),
        "is_valid": entry.is_valid,
        "leadership_term_id": entry.leadership_term_id,
        "term_base_log_position": entry.term_base_log_position,
        "log_position": entry.log_position,
        "service_id": entry.service_id,
        "recording_id": entry.recording_id,
        "timestamp": entry.timestamp,
        "archive_endpoint": entry.archive_endpoint,
    })
}

fn type_name(entry: &Entry) -> &'static str {
    match entry.entry_type {
        EntryType::Term => "TERM",
        EntryType::Snapshot => "SNAPSHOT",
        EntryType::StandbySnapshot => "STANDBY_SNAPSHOT",
    }
}

fn head(mark: &ClusterMark) -> String {
    let header = &mark.header;
    let now_ms = SystemClock.now().epoch_ms;
    let activity = match header.activity_timestamp_ms {
        -1 => "stopped".to_owned(),
        at if mark.is_active(now_ms) => format!("active {} ms ago", now_ms - at),
        at => format!("last active {}", print::timestamp(at)),
    };
    let service =
        if header.service_id >= 0 { format!(" service {}", header.service_id) } else { String::new() };
    format!(
        "{}{service}: pid={} {activity}, started {}",
        mark.component(),
        header.pid,
        print::timestamp(header.start_timestamp_ms)
    )
}

fn mark_to_text(mark: &ClusterMark) -> String {
    let h = &mark.header;
    let mut text = format!(
        "{}\n  file={} version={} clusterId={} memberId={} candidateTermId={}\n  \
         archiveStreamId={} serviceStreamId={} consensusModuleStreamId={} ingressStreamId={}\n",
        head(mark),
        mark.path.display(),
        h.version,
        h.cluster_id,
        h.member_id,
        h.candidate_term_id,
        h.archive_stream_id,
        h.service_stream_id,
        h.module_stream_id,
        h.ingress_stream_id
    );
    for (name, value) in [
        ("aeronDirectory", &h.aeron_directory),
        ("controlChannel", &h.control_channel),
        ("ingressChannel", &h.ingress_channel),
        ("serviceName", &h.service_name),
        ("authenticator", &h.authenticator),
        ("servicesClusterDir", &h.services_directory),
    ] {
        if !value.is_empty() {
            let _infallible = writeln!(text, "  {name}={value}");
        }
    }
    text
}

fn mark_to_json(mark: &ClusterMark) -> Value {
    let h = &mark.header;
    json!({
        "component": mark.component(),
        "path": mark.path,
        "is_legacy": h.is_legacy,
        "version": h.version,
        "activity_ms": h.activity_timestamp_ms,
        "start_ms": h.start_timestamp_ms,
        "pid": h.pid,
        "candidate_term_id": h.candidate_term_id,
        "archive_stream_id": h.archive_stream_id,
        "service_stream_id": h.service_stream_id,
        "module_stream_id": h.module_stream_id,
        "ingress_stream_id": h.ingress_stream_id,
        "member_id": h.member_id,
        "service_id": h.service_id,
        "cluster_id": h.cluster_id,
        "aeron_dir": h.aeron_directory,
        "control_channel": h.control_channel,
        "ingress_channel": h.ingress_channel,
        "service_name": h.service_name,
        "authenticator": h.authenticator,
        "services_dir": h.services_directory,
    })
}
