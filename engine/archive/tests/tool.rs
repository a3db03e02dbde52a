//! Offline changes to the files of an archive, compared byte by byte, and refusals.

use std::path::Path;

use harrier_archive::catalog::{Catalog, RecordingState};
use harrier_archive::tool::{
    ArchiveEditor, ArchiveFiles, ToolError, TornAnswer, Verdict, VerifyOptions, migrate,
};
use harrier_archive::{ArchiveMark, Checksum, MarkFileError};
use harrier_platform::{FileStorage, MappedMemory, SystemClock};
use harrier_ringbuf::Clock;

type Editor = ArchiveEditor<MappedMemory, FileStorage>;

const PLAIN: VerifyOptions = VerifyOptions { all_segments: true, checksum: None, torn: TornAnswer::Refuse };

/// Copies golden data and extends empty segment files.
fn copy(stage: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("harrier-tool-").tempdir_in("/dev/shm").unwrap();
    for entry in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(stage)).unwrap()
    {
        let path = entry.unwrap().path();
        std::fs::write(directory.path().join(path.file_name().unwrap()), std::fs::read(&path).unwrap())
            .unwrap();
    }
    directory
}

fn edit(directory: &tempfile::TempDir) -> Editor {
    ArchiveEditor::take(directory.path(), &MappedMemory, FileStorage::inline(), &SystemClock.now()).unwrap()
}

fn catalog(directory: &tempfile::TempDir) -> Vec<u8> {
    std::fs::read(directory.path().join("archive.catalog")).unwrap()
}

const GOOD: Verdict = Verdict::Good { corrected_stop: None, became_valid: false };

#[test]
fn golden_recordings_are_whole_and_their_frames_are_read() {
    let directory = copy("plain/extended");
    let before = catalog(&directory);
    assert_eq!(edit(&directory).verify(0, &PLAIN).unwrap(), GOOD);
    assert_eq!(catalog(&directory), before);
    let mut files = ArchiveFiles::open(directory.path(), FileStorage::inline()).unwrap();
    let mut seen = Vec::new();
    files
        .for_each_frame(0, &mut |frame| {
            seen.push((frame.position, frame.length, frame.is_padding, frame.payload.len()));
            true
        })
        .unwrap();
    assert_eq!(seen[0], (0, 47, false, 15));
    assert!(seen.contains(&(64_608, 928, true, 0)) && seen.contains(&(131_008, 64, true, 0)), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!(last.0 + last.1.next_multiple_of(32) as i64, 194_432);
}

#[test]
fn states_change_by_four_bytes_and_purged_recordings_stay_purged() {
    let directory = copy("plain/final");
    let before = catalog(&directory);
    let mut editor = edit(&directory);
    assert!(editor.set_valid(1, false).unwrap());
    assert!(!editor.set_valid(1, false).unwrap());
    let changed: Vec<usize> = catalog(&directory)
        .iter()
        .zip(&before)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(index, _)| index)
        .collect();
    assert_eq!(changed, [0x1a4]);
    assert!(editor.set_valid(1, true).unwrap());
    assert_eq!(catalog(&directory), before);
    assert!(matches!(editor.set_valid(0, true), Err(ToolError::Deleted(0))));
    assert!(matches!(editor.set_valid(9, true), Err(ToolError::Unknown(9))));
    assert_eq!(editor.verify(0, &PLAIN).unwrap(), Verdict::Deleted);
}

#[test]
fn a_recording_that_lost_bytes_is_invalid_until_they_are_back() {
    let directory = copy("plain/extended");
    let path = directory.path().join("0-131072.rec");
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[8] = 5;
    std::fs::write(&path, damaged).unwrap();
    let mut editor = edit(&directory);
    let Verdict::Faulty { reason } = editor.verify(0, &PLAIN).unwrap() else { panic!("not faulty") };
    assert!(
        reason.contains("frame at 0 has termOffset=5 termId=12 streamId=1001, expected 0 12 1001"),
        "{reason}"
    );
    assert_eq!(editor.files().entry(0).unwrap().state, RecordingState::Invalid);
    std::fs::write(&path, &whole).unwrap();
    let verdict = editor.verify(0, &PLAIN).unwrap();
    assert_eq!(verdict, Verdict::Good { corrected_stop: None, became_valid: true });
    std::fs::remove_file(directory.path().join("0-0.rec")).unwrap();
    let last_only = VerifyOptions { all_segments: false, ..PLAIN };
    assert_eq!(editor.verify(0, &last_only).unwrap(), GOOD);
    let Verdict::Faulty { reason } = editor.verify(0, &PLAIN).unwrap() else { panic!("not faulty") };
    assert!(reason.contains("segment file of position 0 is missing"), "{reason}");
    std::fs::remove_file(path).unwrap();
    let Verdict::Faulty { reason } = editor.verify(0, &last_only).unwrap() else { panic!("not faulty") };
    assert!(reason.contains("no segment file"), "{reason}");
}

#[test]
fn positions_that_cannot_be_are_found() {
    for (offset, value, text) in
        [(72, 33_i64, "positions 33"), (72, 1 << 40, "before"), (80, 1 << 40, "stopPosition")]
    {
        let directory = copy("plain/stopped");
        let mut bytes = catalog(&directory);
        bytes[32 + offset..40 + offset].copy_from_slice(&value.to_le_bytes());
        std::fs::write(directory.path().join("archive.catalog"), bytes).unwrap();
        let Verdict::Faulty { reason } = edit(&directory).verify(0, &PLAIN).unwrap() else {
            panic!("{text}")
        };
        assert!(reason.contains(text), "{reason}");
    }
}

#[test]
fn an_unfinished_recording_gets_its_end_and_a_torn_one_is_asked_about() {
    let directory = copy("plain/active-unclean");
    let mut editor = edit(&directory);
    let verdict = editor.verify(0, &PLAIN).unwrap();
    assert_eq!(verdict, Verdict::Good { corrected_stop: Some(3_360), became_valid: false });
    assert_eq!(editor.verify(0, &PLAIN).unwrap(), GOOD);

    let directory = copy("recovery/torn");
    let mut editor = edit(&directory);
    let Verdict::Torn { segment, offset } = editor.verify(0, &PLAIN).unwrap() else { panic!("not torn") };
    assert_eq!(segment, "0-0.rec");
    let truncate = VerifyOptions { torn: TornAnswer::Truncate, ..PLAIN };
    let expected = Verdict::Good { corrected_stop: Some(offset as i64), became_valid: false };
    assert_eq!(editor.verify(0, &truncate).unwrap(), expected);
    let bytes = std::fs::read(directory.path().join(segment)).unwrap();
    assert_eq!(bytes.len(), editor.files().entry(0).unwrap().descriptor.segment_file_length as usize);
    assert!(bytes[offset..].iter().all(|byte| *byte == 0));
    assert_eq!(editor.verify(0, &PLAIN).unwrap(), GOOD);
}

#[test]
fn checksums_are_those_of_the_released_archive() {
    for checksum in [Checksum::Crc32, Checksum::Crc32c] {
        let directory = copy("plain/extended");
        let mut editor = edit(&directory);
        let checked = VerifyOptions { checksum: Some(checksum), ..PLAIN };
        assert_eq!(editor.checksum(checksum, None, true).unwrap(), 2);
        assert_eq!(editor.verify(0, &checked).unwrap(), GOOD);
        let mut bytes = std::fs::read(directory.path().join("0-0.rec")).unwrap();
        bytes[40] ^= 1;
        std::fs::write(directory.path().join("0-0.rec"), bytes).unwrap();
        let Verdict::Faulty { reason } = editor.verify(0, &checked).unwrap() else { panic!("not faulty") };
        assert!(reason.contains("frame at 0 has checksum"), "{reason}");
    }
    let directory = copy("crc32c/extended");
    let before: Vec<Vec<u8>> = ["archive.catalog", "0-0.rec", "0-131072.rec"]
        .map(|name| std::fs::read(directory.path().join(name)).unwrap())
        .into();
    edit(&directory).checksum(Checksum::Crc32c, Some(0), true).unwrap();
    for (name, before) in ["archive.catalog", "0-0.rec", "0-131072.rec"].into_iter().zip(before) {
        assert_eq!(std::fs::read(directory.path().join(name)).unwrap(), before, "{name}");
    }
}

#[test]
fn a_compacted_catalog_keeps_valid_entries_and_the_next_id() {
    let directory = copy("plain/final");
    std::fs::write(directory.path().join("1-0.rec"), [1]).unwrap();
    std::fs::write(directory.path().join("2-0.rec"), [2]).unwrap();
    let before = catalog(&directory);
    let mut editor = edit(&directory);
    editor.set_valid(1, false).unwrap();
    let done = editor.compact().unwrap();
    assert_eq!((done.deleted_entries, done.reclaimed_bytes, done.deleted_segments), (2, 640, 1));
    let after = catalog(&directory);
    assert_eq!(after.len(), 288);
    assert_eq!(after[..32], before[..32]);
    assert_eq!(after[32..], before[0x2a0..0x2a0 + 256]);
    assert!(!directory.path().join("1-0.rec").exists() && directory.path().join("2-0.rec").exists());
    editor.set_capacity(4_096).unwrap();
    assert_eq!((catalog(&directory).len(), editor.files().catalog().next_recording_id()), (4_096, 3));
    assert!(matches!(editor.set_capacity(288), Err(ToolError::Capacity { .. })));
}

#[test]
fn orphans_are_files_outside_the_recording() {
    let directory = copy("plain/extended");
    for name in ["0-262144.rec", "0-x.rec", "5-0.rec", "0-0.rec.del"] {
        std::fs::write(directory.path().join(name), []).unwrap();
    }
    let mut editor = edit(&directory);
    let orphans = editor.orphaned_segments(None).unwrap();
    assert_eq!(orphans, ["0-x.rec", "0-262144.rec"]);
    editor.remove(&orphans).unwrap();
    assert_eq!(editor.orphaned_segments(Some(0)).unwrap(), Vec::<String>::new());
    assert!(directory.path().join("5-0.rec").exists() && directory.path().join("0-131072.rec").exists());
}

#[test]
fn a_live_archive_is_left_alone() {
    let directory = copy("plain/stopped");
    let now = SystemClock.now();
    let path = directory.path().join("archive-mark.dat");
    let mut mark = std::fs::read(&path).unwrap();
    let facts = ArchiveMark::read(&MappedMemory, directory.path()).unwrap().unwrap();
    assert_eq!((facts.archive_id, facts.control_stream_id, facts.events_stream_id), (42, 10, 30));
    assert!(!facts.is_active(now.epoch_ms));
    mark[16..24].copy_from_slice(&now.epoch_ms.to_le_bytes());
    std::fs::write(&path, &mark).unwrap();
    let take = || ArchiveEditor::take(directory.path(), &MappedMemory, FileStorage::inline(), &now);
    assert!(matches!(take().err(), Some(ToolError::Mark(MarkFileError::Active { .. }))));
    assert!(ArchiveFiles::open(directory.path(), FileStorage::inline()).is_ok());
    mark[16..24].copy_from_slice(&(-1_i64).to_le_bytes());
    std::fs::write(&path, &mark).unwrap();
    let held = take().unwrap();
    assert!(matches!(take().err(), Some(ToolError::Mark(MarkFileError::Active { .. }))));
    drop(held);
    // A mark file may be in another directory or truncated.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::rename(&path, elsewhere.path().join("archive-mark.dat")).unwrap();
    std::fs::write(directory.path().join("archive-mark.lnk"), format!("{}\n", elsewhere.path().display()))
        .unwrap();
    assert_eq!(ArchiveMark::read(&MappedMemory, directory.path()).unwrap().unwrap().pid, facts.pid);
    std::fs::write(elsewhere.path().join("archive-mark.dat"), &mark[..100]).unwrap();
    let cut = ArchiveMark::read(&MappedMemory, directory.path()).unwrap_err();
    assert!(matches!(cut, MarkFileError::Short { length: 100, .. }), "{cut}");
    std::fs::remove_file(elsewhere.path().join("archive-mark.dat")).unwrap();
    assert!(ArchiveMark::read(&MappedMemory, directory.path()).unwrap().is_none());
}

/// A directory of version 2 with one recording that starts in its fourth term.
fn of_version_2(activity_ms: i64) -> tempfile::TempDir {
    let directory = copy("plain/stopped");
    let recording = Catalog::read(&catalog(&directory), None).unwrap().get(0).unwrap().clone();
    let mut body = recording.to_entry_body(recording.frame_length());
    let used = 80 + 12 + recording.stripped_channel.len() + recording.original_channel.len() + 9;
    body.truncate(used);
    let mut old = vec![0; 1_024];
    old[2] = 2;
    old[4..8].copy_from_slice(&1_024_i32.to_le_bytes());
    old.extend_from_slice(&(used as i32).to_le_bytes());
    old.extend_from_slice(&1_i32.to_le_bytes());
    old.resize(1_024 + 32, 0);
    old.extend_from_slice(&body);
    old.resize(8_192, 0);
    std::fs::write(directory.path().join("archive.catalog"), old).unwrap();
    let path = directory.path().join("archive-mark.dat");
    let mut mark = std::fs::read(&path).unwrap();
    mark[8..12].copy_from_slice(&0x2_0000_i32.to_le_bytes());
    mark[16..24].copy_from_slice(&activity_ms.to_le_bytes());
    std::fs::write(path, mark).unwrap();
    directory
}

#[test]
fn a_directory_of_version_2_is_migrated_once() {
    let now = SystemClock.now();
    let run =
        |directory: &tempfile::TempDir| migrate(directory.path(), &MappedMemory, FileStorage::inline(), &now);
    let alive = of_version_2(now.epoch_ms);
    let before = catalog(&alive);
    assert!(matches!(run(&alive), Err(ToolError::Mark(MarkFileError::Active { .. }))));
    assert_eq!(catalog(&alive), before);

    let directory = of_version_2(-1);
    let steps = run(&directory).unwrap();
    assert_eq!((steps.len(), steps[0].from, steps[0].to), (1, 0x2_0000, 0x3_0000));
    let migrated = Catalog::read(&catalog(&directory), None).unwrap();
    let known = Catalog::read(&catalog(&copy("plain/stopped")), None).unwrap();
    assert_eq!(migrated.get(0), known.get(0));
    assert_eq!(migrated.next_recording_id(), 1);
    assert!(run(&directory).unwrap().is_empty());
    assert_eq!(ArchiveMark::read(&MappedMemory, directory.path()).unwrap().unwrap().version, 0x3_0000);

    let begun = of_version_2(-1);
    std::fs::write(begun.path().join("migration-131072-to-196608.dat"), []).unwrap();
    assert!(matches!(run(&begun), Err(ToolError::MigrationBegun { .. })));
    let empty = tempfile::tempdir_in("/dev/shm").unwrap();
    assert!(matches!(run(&empty), Err(ToolError::Absent { .. })));
}

#[test]
fn checksums_that_were_never_written_are_reported_and_nothing_is_changed() {
    let directory = copy("plain/extended");
    let before = catalog(&directory);
    for checksum in [Checksum::Crc32, Checksum::Crc32c] {
        let options = VerifyOptions { checksum: Some(checksum), ..PLAIN };
        let verdict = edit(&directory).verify(0, &options).unwrap();
        assert!(matches!(verdict, Verdict::NotStamped { frames } if frames > 100), "{verdict:?}");
        assert_eq!(catalog(&directory), before);
    }
    // A partly stamped recording: frames with its own session id are accepted, others are refused.
    let directory = copy("plain/extended");
    let mut editor = edit(&directory);
    editor.checksum(Checksum::Crc32c, None, false).unwrap();
    let options = VerifyOptions { checksum: Some(Checksum::Crc32c), ..PLAIN };
    assert_eq!(editor.verify(0, &options).unwrap(), GOOD);
    let path = directory.path().join("0-0.rec");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let Verdict::Faulty { reason } = editor.verify(0, &options).unwrap() else { panic!("not faulty") };
    assert!(reason.contains("0-0.rec: frame at 0 has checksum"), "{reason}");
}

#[test]
fn a_segment_that_is_shorter_than_the_recording_is_reported_with_what_is_missing() {
    // End of the last frame, its middle, start of the segment.
    for (length, end) in [(194_432 - 131_072 - 32, None), (4_096, Some(135_168)), (0, Some(131_072))] {
        let directory = copy("plain/extended");
        let path = directory.path().join("0-131072.rec");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let mut editor = edit(&directory);
        match editor.verify(0, &PLAIN).unwrap() {
            Verdict::Faulty { reason } => {
                assert!(
                    reason.contains("to 194432 are missing") && reason.contains("0-131072.rec"),
                    "{reason}"
                );
            }
            verdict => assert!(matches!(verdict, Verdict::Torn { .. }), "{length}: {verdict:?}"),
        }
        assert_eq!(editor.files().entry(0).unwrap().descriptor.stop_position, 194_432);
        let truncate = VerifyOptions { torn: TornAnswer::Truncate, ..PLAIN };
        let Verdict::Good { corrected_stop: Some(stop), .. } = editor.verify(0, &truncate).unwrap() else {
            panic!("not shortened")
        };
        assert!(stop <= 131_072 + length as i64, "{stop} is beyond the {length} bytes on disk");
        assert!(end.is_none_or(|end| stop <= end));
        assert_eq!(editor.verify(0, &PLAIN).unwrap(), GOOD);
    }
}

#[test]
fn a_damaged_header_says_that_no_command_repairs_it() {
    let directory = copy("plain/extended");
    let mut bytes = catalog(&directory);
    bytes[16] = 7;
    std::fs::write(directory.path().join("archive.catalog"), bytes).unwrap();
    let now = SystemClock.now();
    let opened = Editor::take(directory.path(), &MappedMemory, FileStorage::inline(), &now);
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("no command can repair it: restore the catalog from a backup"), "{text}");
}

#[test]
fn an_entry_that_cannot_be_read_is_named_and_all_others_are() {
    let directory = copy("plain/final");
    let mut bytes = catalog(&directory);
    let readable = Catalog::inspect(&bytes).unwrap().entries().len();
    bytes[36] = 9;
    std::fs::write(directory.path().join("archive.catalog"), bytes).unwrap();
    let mut editor = edit(&directory);
    let found = editor.files().catalog();
    assert_eq!(found.entries().len(), readable - 1);
    let unreadable: Vec<_> = found.unreadable().map(|damage| (damage.offset, damage.reason)).collect();
    assert_eq!(unreadable, [(32, "state 9 is unknown".to_owned())]);
}

#[test]
fn whole_segments_before_a_position_are_purged() {
    for (stage, checksum) in [("plain/extended", None), ("crc32c/extended", Some(Checksum::Crc32c))] {
        let directory = copy(stage);
        let mut editor = edit(&directory);
        assert_eq!(editor.purge_to(0, 131_000).unwrap(), Vec::<String>::new());
        assert_eq!(editor.purge_to(0, 140_000).unwrap(), ["0-0.rec"]);
        assert_eq!(editor.files().entry(0).unwrap().descriptor.start_position, 131_072);
        assert!(!directory.path().join("0-0.rec").exists());
        // The last segment stays, whatever the position is.
        assert_eq!(editor.purge_to(0, i64::MAX).unwrap(), Vec::<String>::new());
        assert_eq!(editor.purge_to(0, i64::MIN).unwrap(), Vec::<String>::new());
        let options = VerifyOptions { checksum, ..PLAIN };
        assert_eq!(editor.verify(0, &options).unwrap(), GOOD);
        assert!(matches!(editor.purge_to(9, 0), Err(ToolError::Unknown(9))));
    }
}
