//! Changes of an archive's files.

use std::path::Path;

use harrier::archive::Checksum;
use harrier::archive::catalog::CatalogError;
use harrier::archive::tool::{
    ArchiveFiles, ToolError, TornAnswer, Verdict, VerifyOptions, migrate as migrate_files,
};
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use serde_json::{Value, json};

use super::{Editor, TornChoice, editor, files, is_confirmed};
use crate::{CommandError, print};

/// Options of a verification.
pub(super) struct Verification {
    pub(super) all: bool,
    pub(super) checksum: Option<Checksum>,
    pub(super) torn: Option<TornChoice>,
    pub(super) json: bool,
}

pub(super) fn verify(
    directory: &Path,
    recording_id: Option<i64>,
    wanted: &Verification,
) -> Result<(), CommandError> {
    let mut editor = editor(directory)?;
    let ids: Vec<i64> = match recording_id {
        Some(id) => vec![id],
        None => {
            editor.files().catalog().entries().iter().map(|entry| entry.descriptor.recording_id).collect()
        }
    };
    let mut is_faulty = false;
    for id in ids {
        let verdict = verify_one(&mut editor, id, wanted)?;
        is_faulty |= matches!(verdict, Verdict::Faulty { .. } | Verdict::Torn { .. });
        if wanted.json {
            print::json(&to_json(id, &verdict))?;
        } else {
            print::text(&format!("(recordingId={id}) {}\n", to_text(&verdict)))?;
        }
    }
    if recording_id.is_none() {
        for damage in editor.files().catalog().unreadable() {
            is_faulty = true;
            let (offset, reason) = (damage.offset, damage.reason);
            if wanted.json {
                print::json(
                    &json!({ "entry_offset": offset, "verdict": "unreadable", "detail": { "reason": reason } }),
                )?;
            } else {
                print::text(&format!("(entryOffset={offset}) ERR: the entry cannot be read: {reason}\n"))?;
            }
        }
    }
    if is_faulty { Err(CommandError::Answer(1)) } else { Ok(()) }
}

fn verify_one(editor: &mut Editor, id: i64, wanted: &Verification) -> Result<Verdict, CommandError> {
    let torn = match wanted.torn {
        None => TornAnswer::Refuse,
        Some(TornChoice::Truncate) => TornAnswer::Truncate,
        Some(TornChoice::Keep) => TornAnswer::Keep,
    };
    let mut options = VerifyOptions { all_segments: wanted.all, checksum: wanted.checksum, torn };
    let verdict = editor.verify(id, &options)?;
    let Verdict::Torn { segment, offset } = &verdict else { return Ok(verdict) };
    let question = format!(
        "The last frame in {segment}, at {offset}, crosses a page of the disk and may be torn.\n\
         Truncate the recording before it"
    );
    if !is_confirmed(&question)? {
        return Ok(verdict);
    }
    options.torn = TornAnswer::Truncate;
    Ok(editor.verify(id, &options)?)
}

fn to_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Deleted => "skipping: DELETED".to_owned(),
        Verdict::Good { corrected_stop, became_valid } => {
            let stop =
                corrected_stop.map_or_else(String::new, |stop| format!(", stopPosition is now {stop}"));
            let valid = if *became_valid { ", VALID again" } else { "" };
            format!("OK{stop}{valid}")
        }
        Verdict::NotStamped { frames } => {
            format!("not stamped: none of the {frames} data frames has a checksum; nothing was changed")
        }
        Verdict::Torn { segment, offset } => format!(
            "ERR: the last frame in {segment}, at {offset}, may be torn; --torn truncate ends the recording before it, \
             --torn keep takes it as whole"
        ),
        Verdict::Faulty { reason } => format!("ERR: {reason}"),
    }
}

fn to_json(id: i64, verdict: &Verdict) -> Value {
    let (outcome, detail) = match verdict {
        Verdict::Deleted => ("deleted", Value::Null),
        Verdict::Good { corrected_stop, became_valid } => {
            ("good", json!({ "corrected_stop": corrected_stop, "became_valid": became_valid }))
        }
        Verdict::NotStamped { frames } => ("not-stamped", json!({ "frames": frames })),
        Verdict::Torn { segment, offset } => ("torn", json!({ "segment": segment, "offset": offset })),
        Verdict::Faulty { reason } => ("faulty", json!({ "reason": reason })),
    };
    json!({ "recording_id": id, "verdict": outcome, "detail": detail })
}

pub(super) fn checksum(
    directory: &Path,
    checksum: Checksum,
    recording_id: Option<i64>,
    all: bool,
) -> Result<(), CommandError> {
    let count = editor(directory)?.checksum(checksum, recording_id, all)?;
    print::text(&format!("checksums written into the catalog and {count} segment files\n"))
}

pub(super) fn compact(directory: &Path, yes: bool) -> Result<(), CommandError> {
    let mut editor = editor(directory)?;
    let question = "Recordings that are not VALID will be gone for good, with their segment files. Go on?";
    if !yes && !is_confirmed(question)? {
        return Err(not_done());
    }
    let done = editor.compact()?;
    print::text(&format!(
        "deleted {} entries and {} segment files, reclaimed {} bytes of the catalog\n",
        done.deleted_entries, done.deleted_segments, done.reclaimed_bytes
    ))
}

fn not_done() -> CommandError {
    CommandError::Failed("nothing was changed: the answer was no; --yes does it without asking".into())
}

pub(super) fn delete_orphaned(
    directory: &Path,
    recording_id: Option<i64>,
    yes: bool,
) -> Result<(), CommandError> {
    let mut editor = editor(directory)?;
    let orphans = editor.orphaned_segments(recording_id)?;
    if orphans.is_empty() {
        return print::text("no orphaned segment files\n");
    }
    let question = format!("These files will be gone for good: {}. Go on?", orphans.join(" "));
    if !yes && !is_confirmed(&question)? {
        return Err(not_done());
    }
    editor.remove(&orphans)?;
    print::text(&format!("deleted {}\n", orphans.join(" ")))
}

pub(super) fn purge_to(
    directory: &Path,
    recording_id: i64,
    position: i64,
    yes: bool,
) -> Result<(), CommandError> {
    let mut editor = editor(directory)?;
    let question = format!(
        "Segments of recording {recording_id} before position {position} will be gone for good. Go on?"
    );
    if !yes && !is_confirmed(&question)? {
        return Err(not_done());
    }
    let removed = editor.purge_to(recording_id, position)?;
    let start = editor.files().entry(recording_id)?.descriptor.start_position;
    print::text(&format!(
        "(recordingId={recording_id}) startPosition={start}, deleted {} segment files\n",
        removed.len()
    ))
}

pub(super) fn mark(directory: &Path, recording_id: i64, is_valid: bool) -> Result<(), CommandError> {
    let has_changed = editor(directory)?.set_valid(recording_id, is_valid)?;
    let state = if is_valid { "VALID" } else { "INVALID" };
    let said = if has_changed { "changed state to" } else { "is already" };
    print::text(&format!("(recordingId={recording_id}) {said} {state}\n"))
}

pub(super) fn capacity(directory: &Path, bytes: Option<u64>) -> Result<(), CommandError> {
    let capacity = match bytes {
        None => files(directory)?.catalog().capacity(),
        Some(bytes) => {
            let mut editor = editor(directory)?;
            editor.set_capacity(bytes)?;
            editor.files().catalog().capacity()
        }
    };
    print::text(&format!("{capacity}\n"))
}

/// Checks the version first: without an older version there is nothing to ask about.
pub(super) fn migrate(directory: &Path, yes: bool) -> Result<(), CommandError> {
    match files(directory) {
        Ok(_) => return print::text("nothing to do: the catalog is of version 3\n"),
        Err(error) => {
            let is_older = matches!(
                ArchiveFiles::open(directory, FileStorage::inline()),
                Err(ToolError::Catalog { error: CatalogError::Version(version), .. })
                    if version >> 16 < 3
            );
            if !is_older {
                return Err(error);
            }
        }
    }
    let question =
        "Segment files get other names and the catalog is rewritten. Is there a backup, and shall it go on?";
    if !yes && !is_confirmed(question)? {
        return Err(not_done());
    }
    for step in migrate_files(directory, &MappedMemory, FileStorage::inline(), &SystemClock.now())? {
        for (from, to) in &step.renamed {
            print::text(&format!("{from} -> {to}\n"))?;
        }
        print::text(&format!("version {} -> {}\n", version_text(step.from), version_text(step.to)))?;
    }
    Ok(())
}

fn version_text(version: i32) -> String {
    format!("{}.{}.{}", version >> 16, (version >> 8) & 0xFF, version & 0xFF)
}
