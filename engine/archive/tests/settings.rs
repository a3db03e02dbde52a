//! Settings by name.

use std::collections::BTreeMap;

use harrier_archive::{Archive, ArchiveContext, ArchiveMark, Checksum, SyncLevel};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::{Clock, Region};

use crate::rig::{archive_context, catalog_of, descriptor, directory};

/// Every setting of spec 03 §6.2 with a value that is not its default.
const VALUES: [(&str, &str); 36] = [
    ("dir", "/tmp/other"),
    ("dir.delete.on.start", "true"),
    ("mark.file.dir", "/tmp/mark"),
    ("id", "77"),
    ("control.channel", "aeron:udp?endpoint=localhost:8010"),
    ("control.stream.id", "11"),
    ("local.control.channel", "aeron:ipc?term-length=128k"),
    ("local.control.stream.id", "12"),
    ("control.term.buffer.length", "131072"),
    ("control.term.buffer.sparse", "false"),
    ("control.mtu.length", "4096"),
    ("recording.events.enabled", "true"),
    ("recording.events.channel", "aeron:ipc"),
    ("recording.events.stream.id", "31"),
    ("replication.channel", "aeron:udp?endpoint=localhost:0"),
    ("control.response.channel", "aeron:udp?endpoint=localhost:0"),
    ("message.timeout", "4000000000ns"),
    ("segment.file.length", "262144"),
    ("file.io.max.length", "65536"),
    ("file.sync.level", "1"),
    ("catalog.file.sync.level", "2"),
    ("low.storage.space.threshold", "7"),
    ("max.concurrent.recordings", "3"),
    ("max.concurrent.replays", "4"),
    ("catalog.capacity", "4096"),
    ("connect.timeout", "6000000ns"),
    ("session.liveness.check.interval", "7000ns"),
    ("replay.linger.timeout", "8ns"),
    ("record.checksum", "CRC-32C"),
    ("replay.checksum", "CRC-32"),
    ("authorisation.service.supplier", "DENY_ALL"),
    ("conductor.cycle.threshold", "1000000000ns"),
    ("recorder.cycle.threshold", "2000000000ns"),
    ("replayer.cycle.threshold", "3000000000ns"),
    ("error.buffer.length", "2097152"),
    ("max.control.sessions", "9"),
];

fn apply(values: &[(&str, &str)]) -> Result<ArchiveContext, String> {
    let values: BTreeMap<String, String> =
        values.iter().map(|(name, value)| (format!("aeron.archive.{name}"), (*value).to_owned())).collect();
    let mut context = ArchiveContext::new("/tmp/aeron", "/tmp/archive");
    context.apply(&|name| values.get(name).cloned()).map_err(|error| error.to_string())?;
    Ok(context)
}

#[test]
fn every_setting_is_read_and_printed() {
    let context = apply(&VALUES).unwrap();
    let (printed, default) = (context.printed(), apply(&[]).unwrap().printed());
    for (name, value) in VALUES {
        let line = format!("    aeron.archive.{name}={value}\n");
        assert!(printed.contains(&line), "{line}{printed}");
        assert!(!default.contains(&line), "{line} is the default");
    }
    assert!(printed.contains("    aeron.archive.authenticator.supplier=ALLOW_ALL\n"));
    assert!(printed.contains("    aeron.archive.control.channel.enabled=true\n"));
    assert_eq!((context.record_checksum, context.file_sync_level), (Some(Checksum::Crc32c), SyncLevel::Data));
    let channel = ("control.channel", "aeron:udp?endpoint=localhost:8010");
    let local = apply(&[channel, ("control.channel.enabled", "false")]).unwrap();
    assert_eq!(local.control_channel, None);
    assert_eq!(apply(&[("segment.file.length", "1m")]).unwrap().segment_file_length, 1 << 20);
}

#[test]
fn invalid_settings_are_named() {
    for (name, value) in [
        ("segment.file.length", "many"),
        ("segment.file.length", "65k"),
        ("file.io.max.length", "1k"),
        ("file.sync.level", "1"),
        ("file.sync.level", "3"),
        ("catalog.capacity", "31"),
        ("error.buffer.length", "64k"),
        ("control.channel", "aeron:ipc"),
        ("control.channel", "nonsense"),
        ("local.control.channel", "aeron:udp?endpoint=localhost:1"),
        ("control.term.buffer.length", "65535"),
        ("control.mtu.length", "33"),
        ("connect.timeout", "soon"),
        ("connect.timeout", "0"),
        ("max.concurrent.recordings", "0"),
        ("record.checksum", "MD5"),
        ("authenticator.supplier", "com.example.Mine"),
        ("authorisation.service.supplier", "com.example.Mine"),
        ("dir.delete.on.start", "maybe"),
        ("id", "x"),
    ] {
        let error = apply(&[(name, value)]).unwrap_err();
        assert!(
            error.starts_with("archive setting aeron.archive.") && error.contains(" must be "),
            "{error}"
        );
    }
}

#[test]
fn the_mark_file_may_be_elsewhere_and_is_found_there() {
    let directory = directory();
    let elsewhere = directory.path().join("mark");
    let launch = |is_elsewhere: bool| {
        let mut context = archive_context(directory.path());
        context.mark_file_directory = is_elsewhere.then(|| elsewhere.clone());
        context.recording_events_enabled = true;
        Archive::launch(context, MappedMemory, FileStorage::inline(), &PausingClock.now()).unwrap()
    };
    let folder = directory.path().join("archive");
    drop(launch(true));
    let mark = ArchiveMark::read(&MappedMemory, &folder).unwrap().unwrap();
    assert_eq!(mark.path, elsewhere.join("archive-mark.dat"));
    assert_eq!(mark.events_channel, "aeron:udp?control-mode=dynamic|control=localhost:8030");
    assert_eq!(
        std::fs::read_to_string(folder.join("archive-mark.lnk")).unwrap(),
        elsewhere.to_str().unwrap()
    );
    drop(launch(false));
    assert!(!folder.join("archive-mark.lnk").exists());
    let mark = ArchiveMark::read(&MappedMemory, &folder).unwrap().unwrap();
    assert_eq!(mark.path, folder.join("archive-mark.dat"));
}

#[test]
fn a_directory_is_deleted_on_start_unless_an_archive_runs_on_it() {
    let directory = directory();
    let folder = directory.path().join("archive");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("archive.catalog"), catalog_of(&[descriptor()])).unwrap();
    std::fs::write(folder.join("0-0.rec"), []).unwrap();
    let launch = || {
        let mut context = archive_context(directory.path());
        context.delete_directory_on_start = true;
        Archive::launch(context, MappedMemory, FileStorage::inline(), &PausingClock.now())
    };
    let archive = launch().unwrap();
    assert!(archive.catalog().entries().is_empty() && !folder.join("0-0.rec").exists());
    std::fs::write(folder.join("0-0.rec"), []).unwrap();
    assert!(launch().is_err());
    assert!(folder.join("0-0.rec").exists(), "a running archive keeps its files");
}

#[test]
fn a_mark_file_is_replaced_when_it_is_cut_or_its_error_log_grows() {
    let directory = directory();
    let folder = directory.path().join("archive");
    std::fs::create_dir(&folder).unwrap();
    let mark = folder.join("archive-mark.dat");
    std::fs::write(&mark, [1, 2, 3]).unwrap();
    for (error_length, length) in [(1 << 20, 1_056_768), (2 << 20, 2_105_344), (1 << 20, 2_105_344)] {
        let mut context = archive_context(directory.path());
        context.error_buffer_length = error_length;
        drop(Archive::launch(context, MappedMemory, FileStorage::inline(), &PausingClock.now()).unwrap());
        assert_eq!(std::fs::metadata(&mark).unwrap().len(), length);
        let read = ArchiveMark::read(&MappedMemory, &folder).unwrap().unwrap();
        assert_eq!(read.errors.capacity(), error_length);
    }
}
