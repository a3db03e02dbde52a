//! An archive beside a driver on one thread records publications and replays the recordings.

use std::path::Path;

use harrier_archive::client::{ArchiveAnswer, ReplayOptions};
use harrier_archive::codec::Signal;
use harrier_archive::{Archive, ArchiveContext, ArchiveError, Checksum, SourceLocation, SyncLevel};
use harrier_client::ExclusivePublication;
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::Clock;

use crate::rig::{CHANNEL, STREAM_ID, World, archive_context};

#[test]
fn a_stream_is_recorded_over_segments_and_replayed() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..2_000, 200);
    let position = publication.position();
    let id = world.until("the recording", |world| {
        harrier_archive::client::find_recording_counter(
            world.aeron.counters(),
            publication.session_id(),
            None,
        )
    });
    world.recorded(id.1, position);
    assert_eq!(world.replay(id.1, 0, -2, 2_000), (0..2_000).collect::<Vec<_>>());
    let stop = world.client.stop_recording(&world.aeron, CHANNEL, STREAM_ID).unwrap();
    world.ok(stop);
    assert_eq!(world.signal(Signal::Stop), (id.1, position));
    let request = world.client.stop_position(&world.aeron, id.1).unwrap();
    assert_eq!(world.ok(request), position);
    let from = 65_536 + 256 * 10;
    let numbers = world.replay(id.1, from, -1, 1);
    assert!(numbers[0] > 200);
}

#[test]
fn a_stopped_recording_is_extended_where_it_ended() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..100, 100);
    let (position, initial_term_id) = (publication.position(), publication.initial_term_id());
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);
    let mut uri = harrier_protocol::uri::ChannelUri::ipc();
    uri.set_initial_position(position, initial_term_id, 65_536);
    let channel = uri.to_string();
    let extend = world
        .client
        .extend_recording(&world.aeron, id, "aeron:ipc", STREAM_ID, SourceLocation::Local, true)
        .unwrap();
    world.ok(extend);
    let mut publication = world.publication(&channel);
    world.publish(&mut publication, 100..200, 100);
    assert_eq!(world.signal(Signal::Extend), (id, position));
    world.recorded(id, publication.position());
    assert_eq!(world.replay(id, 0, -2, 200), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_truncated_recording_ends_at_the_cut() {
    let mut world = World::new(|context| {
        context.record_checksum = Some(Checksum::Crc32c);
        context.file_sync_level = SyncLevel::Data;
        context.catalog_file_sync_level = SyncLevel::Data;
    });
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..1_500, 96);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);
    let bad = world.client.truncate_recording(&world.aeron, id, 32).unwrap();
    assert!(matches!(world.answer(bad), ArchiveAnswer::Error { code: 0, .. }));
    let cut = world.client.truncate_recording(&world.aeron, id, 128 * 700).unwrap();
    assert_eq!(world.ok(cut), 1);
    world.signal(Signal::Delete);
    let stop = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(stop), 128 * 700);
    assert_eq!(world.replay(id, 0, -1, 700).len(), 700);
    let purge = world.client.purge_recording(&world.aeron, id).unwrap();
    world.until("the end of the replay", |world| match world.client.poll_answer()? {
        ArchiveAnswer::Error { correlation_id, code: 2, .. } if correlation_id == purge => Some(()),
        ArchiveAnswer::Ok { correlation_id, .. } if correlation_id == purge => Some(()),
        _ => None,
    });
}

/// Records messages of 128 bytes with the frame; returns the recording id and stop position.
fn record(world: &mut World, channel: &str, range: std::ops::Range<u64>) -> (i64, i64) {
    let start =
        world.client.start_recording(&world.aeron, channel, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(channel);
    world.publish(&mut publication, range, 96);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    assert_eq!(world.signal(Signal::Stop), (id, position));
    (id, position)
}

fn refused(world: &mut World, correlation_id: i64, wanted: i64) -> String {
    match world.answer(correlation_id) {
        ArchiveAnswer::Error { code, message, .. } if code == wanted => message,
        other => panic!("{other:?}"),
    }
}

const SEGMENT: i64 = 128 << 10;

#[test]
fn segments_are_detached_attached_and_deleted() {
    let mut world = World::new(|_| ());
    let (id, stop) = record(&mut world, CHANNEL, 0..3_500);
    assert!(stop > 3 * SEGMENT);
    let names = |world: &World| {
        let folder = world.directory.path().join("archive");
        (0..5).filter(|at| folder.join(format!("{id}-{}.rec", at * SEGMENT)).exists()).collect::<Vec<_>>()
    };
    let start_position = |world: &mut World| {
        let request = world.client.start_position(&world.aeron, id).unwrap();
        world.ok(request)
    };
    for (position, text) in [
        (SEGMENT + 64, "invalid segment start: newStartPosition="),
        (0, "lowerBound="),
        (4 * SEGMENT, "upperBound="),
    ] {
        let bad = world.client.detach_segments(&world.aeron, id, position).unwrap();
        let message = refused(&mut world, bad, 0);
        assert!(message.contains(text), "{message}");
    }
    let detach = world.client.detach_segments(&world.aeron, id, 2 * SEGMENT).unwrap();
    assert_eq!(world.ok(detach), 0);
    assert_eq!((start_position(&mut world), names(&world)), (2 * SEGMENT, vec![0, 1, 2, 3]));
    assert_eq!(world.replay(id, -1, -1, 1_000)[0], 2_048);
    let attach = world.client.attach_segments(&world.aeron, id).unwrap();
    assert_eq!(world.ok(attach), 2);
    assert_eq!(start_position(&mut world), 0);
    let purge = world.client.purge_segments(&world.aeron, id, SEGMENT).unwrap();
    assert_eq!(world.ok(purge), 1);
    assert_eq!(world.signal(Signal::Delete), (id, -1));
    assert_eq!((start_position(&mut world), names(&world)), (SEGMENT, vec![1, 2, 3]));
    let detach = world.client.detach_segments(&world.aeron, id, 3 * SEGMENT).unwrap();
    assert_eq!(world.ok(detach), 0);
    // A file that is not a segment of the recording is not attached, and the catalog is unchanged.
    let path = world.directory.path().join("archive").join(format!("{id}-{}.rec", 2 * SEGMENT));
    let whole = std::fs::read(&path).unwrap();
    for bad in [whole[..1_000].to_vec(), vec![0; whole.len()]] {
        std::fs::write(&path, bad).unwrap();
        let attach = world.client.attach_segments(&world.aeron, id).unwrap();
        refused(&mut world, attach, 0);
        assert_eq!(start_position(&mut world), 3 * SEGMENT);
    }
    let delete = world.client.delete_detached_segments(&world.aeron, id).unwrap();
    assert_eq!(world.ok(delete), 2);
    world.signal(Signal::Delete);
    assert_eq!(names(&world), [3]);
    let unknown = world.client.attach_segments(&world.aeron, 77).unwrap();
    refused(&mut world, unknown, 5);
}

#[test]
fn a_recording_that_begins_inside_a_term_is_attached_to_its_first_frame() {
    let mut world = World::new(|_| ());
    let channel = format!("{CHANNEL}|init-term-id=7|term-id=7|term-offset=4096");
    let (id, _) = record(&mut world, &channel, 0..2_500);
    let detach = world.client.detach_segments(&world.aeron, id, 2 * SEGMENT).unwrap();
    assert_eq!(world.ok(detach), 0);
    let attach = world.client.attach_segments(&world.aeron, id).unwrap();
    assert_eq!(world.ok(attach), 2);
    let start = world.client.start_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(start), 4_096);
    assert_eq!(world.replay(id, 4_096, -1, 2_500).len(), 2_500);
}

#[test]
fn segments_move_to_a_recording_that_goes_on_where_they_end() {
    let mut world = World::new(|_| ());
    let fixed = format!("{CHANNEL}|init-term-id=7|term-id=7|term-offset=0");
    let (first, stop) = record(&mut world, &fixed, 0..2_048);
    assert_eq!(stop, 2 * SEGMENT);
    let later = format!("{CHANNEL}|init-term-id=7|term-id=11|term-offset=0");
    let (second, end) = record(&mut world, &later, 2_048..2_560);
    let apart = world.client.migrate_segments(&world.aeron, first, first).unwrap();
    assert!(refused(&mut world, apart, 0).contains("not contiguous"));
    let migrate = world.client.migrate_segments(&world.aeron, first, second).unwrap();
    assert_eq!(world.ok(migrate), 2);
    assert_eq!(world.signal(Signal::Delete), (first, -1));
    for (id, expected) in [(first, [0, 0]), (second, [0, end])] {
        let start = world.client.start_position(&world.aeron, id).unwrap();
        let start = world.ok(start);
        let stop = world.client.stop_position(&world.aeron, id).unwrap();
        assert_eq!([start, world.ok(stop)], expected);
    }
    let numbers = world.replay(second, 0, -1, 2_560);
    assert!(numbers.iter().copied().eq(0..2_560));
    let folder = world.directory.path().join("archive");
    assert!(!folder.join(format!("{first}-{stop}.rec")).exists());
    // In the other direction, later segments join an earlier recording.
    let third = format!("{CHANNEL}|init-term-id=7|term-id=7|term-offset=0");
    let (third, _) = record(&mut world, &third, 0..1_024);
    let detach = world.client.detach_segments(&world.aeron, second, SEGMENT).unwrap();
    assert_eq!(world.ok(detach), 0);
    // The recorder has begun the segment behind the boundary; a truncation to the stop position removes it.
    let truncate = world.client.truncate_recording(&world.aeron, third, SEGMENT).unwrap();
    assert_eq!(world.ok(truncate), 1);
    world.signal(Signal::Delete);
    let migrate = world.client.migrate_segments(&world.aeron, second, third).unwrap();
    assert_eq!(world.ok(migrate), 2);
    world.signal(Signal::Delete);
    assert!(world.replay(third, 0, -1, 2_560).iter().copied().eq(0..2_560));
    let apart = world.client.migrate_segments(&world.aeron, second, third).unwrap();
    assert!(refused(&mut world, apart, 0).contains("not contiguous"));
}

#[test]
fn a_channel_may_grow_and_moves_the_entries_behind_it() {
    let mut world = World::new(|context| context.record_checksum = Some(Checksum::Crc32c));
    let (first, _) = record(&mut world, CHANNEL, 0..10);
    let (second, _) = record(&mut world, CHANNEL, 0..20);
    let path = world.directory.path().join("archive/archive.catalog");
    let before = std::fs::read(&path).unwrap();
    let alias = "a-much-longer-alias-for-the-recording-so-the-frame-grows";
    let long = format!("aeron:udp?endpoint=localhost:9999|alias={alias}|term-length=128k");
    let update = world.client.update_channel(&world.aeron, first, &long).unwrap();
    assert_eq!(world.ok(update), 0);
    let after = world.until("the catalog", |_| {
        let bytes = std::fs::read(&path).unwrap();
        (bytes != before).then_some(bytes)
    });
    let length = |bytes: &[u8]| 32 + i32::from_le_bytes(*bytes[32..].first_chunk().unwrap()) as usize;
    let (old, new) = (length(&before), length(&after));
    assert!(new > old, "{old} {new}");
    assert_eq!(after[32 + new..], before[32 + old..before.len() - (new - old)]);
    let catalog = harrier_archive::catalog::Catalog::read(&after, Some(Checksum::Crc32c)).unwrap();
    assert!(catalog.entries().iter().all(|entry| catalog.is_checksum_right(entry)));
    let recording = catalog.get(first).unwrap();
    assert_eq!(recording.original_channel, long);
    assert_eq!(recording.stripped_channel, format!("aeron:udp?endpoint=localhost:9999|alias={alias}"));
    let update = world.client.update_channel(&world.aeron, first, "aeron:ipc").unwrap();
    assert_eq!(world.ok(update), 0);
    assert_eq!(world.replay(second, 0, -1, 20).len(), 20);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(length(&bytes), new);
    let bad = world.client.update_channel(&world.aeron, first, "nonsense").unwrap();
    refused(&mut world, bad, 0);
    let unknown = world.client.update_channel(&world.aeron, 99, "aeron:ipc").unwrap();
    assert!(matches!(world.answer(unknown), ArchiveAnswer::RecordingUnknown { .. }));
}

/// The stream of the golden recordings: three texts, one text with a reserved value, a message of three fragments.
fn publish_golden(world: &mut World, publication: &mut ExclusivePublication) {
    world.until("the connection", |_| publication.is_connected().then_some(()));
    for number in 0..3 {
        publication.offer(format!("hello archive {number}").as_bytes()).unwrap();
    }
    let mut claim = publication.try_claim(15).unwrap();
    claim.put(0, b"hello archive 2");
    claim.set_reserved_value(0x0102_0304_0506_0708);
    claim.commit();
    publication.offer(&(0..3_000).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
}

/// Compares a segment of ours with one that the released archive wrote of the same stream.
fn compare_with_golden(world: &World, stage: &str, segment: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(stage).join(segment);
    let (ours, theirs) = (
        std::fs::read(world.directory.path().join("archive").join(segment)).unwrap(),
        std::fs::read(golden).unwrap(),
    );
    assert_eq!(ours.len(), theirs.len(), "{stage} {segment}");
    let difference = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    assert_eq!(difference, None, "{stage} {segment}: first byte that differs");
}

#[test]
fn segments_are_those_of_the_released_archive_byte_for_byte() {
    for (run, checksum) in [("plain", None), ("crc32c", Some(Checksum::Crc32c))] {
        let mut world = World::new(|context| {
            (context.record_checksum, context.replay_checksum) = (checksum, checksum);
        });
        let local = SourceLocation::Local;
        let start = world.client.start_recording(&world.aeron, "aeron:ipc", STREAM_ID, local, true).unwrap();
        world.ok(start);
        let same = "aeron:ipc?term-length=64k|session-id=287454020|init-term-id=10|term-id=10";
        let mut publication = world.publication(&format!("{same}|term-offset=0"));
        publish_golden(&mut world, &mut publication);
        let (id, _) = world.signal(Signal::Start);
        world.recorded(id, 3_360);
        drop(publication);
        assert_eq!(world.signal(Signal::Stop), (id, 3_360));
        compare_with_golden(&world, &format!("{run}/stopped"), "0-0.rec");
        world.until("the end of the publication, which frees its session", |world| {
            let mut is_there = false;
            world.aeron.counters().for_each(&mut |_, _, _, label| is_there |= label.contains(" 287454020 "));
            (!is_there).then_some(())
        });

        let extend =
            world.client.extend_recording(&world.aeron, id, "aeron:ipc", STREAM_ID, local, true).unwrap();
        world.ok(extend);
        let mut publication = world.publication(&format!("{same}|term-offset=3360"));
        let mut message: Vec<u8> = (0..1_000).map(|at| at as u8).collect();
        for number in 0..180_i32 {
            message[..4].copy_from_slice(&number.to_le_bytes());
            world.until("room", |_| publication.offer(&message).ok());
        }
        assert_eq!(publication.position(), 194_432);
        world.recorded(id, 194_432);
        drop(publication);
        world.signal(Signal::Stop);
        for segment in ["0-0.rec", "0-131072.rec"] {
            compare_with_golden(&world, &format!("{run}/extended"), segment);
        }
    }
}

#[test]
fn a_replay_names_the_position_of_a_damaged_frame() {
    let checksum = |context: &mut ArchiveContext| {
        context.record_checksum = Some(Checksum::Crc32c);
        context.replay_checksum = Some(Checksum::Crc32c);
    };
    let mut world = World::new(checksum);
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..100, 96);
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, publication.position());
    drop(publication);
    world.signal(Signal::Stop);
    let path = world.directory.path().join("archive").join(format!("{id}-0.rec"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[128 * 70 + 40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let subscription_id = world.aeron.add_subscription("aeron:ipc", 77).unwrap();
    let _subscription =
        world.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
    let request = world
        .client
        .replay(&world.aeron, id, 0, 128 * 100, "aeron:ipc", 77, ReplayOptions::default())
        .unwrap();
    world.ok(request);
    match world.answer(request) {
        ArchiveAnswer::Error { message, .. } => {
            assert!(message.contains("0-0.rec: frame at offset 8960 (position 8960 of"), "{message}");
            assert!(message.contains("does not match its checksum"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_carry_their_code() {
    let mut world = World::new(|context| context.max_concurrent_recordings = 1);
    let code = |world: &mut World, request: i64| match world.answer(request) {
        ArchiveAnswer::Error { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let request = world.client.start_position(&world.aeron, 99).unwrap();
    assert_eq!(code(&mut world, request), 5);
    let request = world.client.stop_recording(&world.aeron, CHANNEL, STREAM_ID).unwrap();
    assert_eq!(code(&mut world, request), 4);
    let request =
        world.client.replay(&world.aeron, 99, 0, -1, "aeron:ipc", 7, ReplayOptions::default()).unwrap();
    assert_eq!(code(&mut world, request), 5);
    let first =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(first);
    let again = world
        .client
        .start_recording(&world.aeron, "aeron:ipc?alias=b", STREAM_ID, SourceLocation::Local, false)
        .unwrap();
    assert_eq!(code(&mut world, again), 3);
    let bad = world
        .client
        .start_recording(&world.aeron, "nonsense", STREAM_ID, SourceLocation::Local, false)
        .unwrap();
    assert_eq!(code(&mut world, bad), 0);
    let list = world.client.list_recordings(&world.aeron, 0, 10).unwrap();
    assert!(matches!(world.answer(list), ArchiveAnswer::RecordingUnknown { .. }));
}

#[test]
fn duty_cycles_are_timed() {
    let mut world = World::new(|_| ());
    let value = |world: &World, wanted: i32, text: &str| {
        let counters = world.aeron.counters();
        let id = counters.find(&mut |_, type_id, _| type_id == wanted).unwrap();
        assert_eq!(counters.label(id), format!("archive-conductor {text} SHARED - archiveId=42"));
        counters.value(id)
    };
    world.step();
    assert!(value(&world, 103, "max cycle time in ns:") > 0);
    assert!(value(&world, 104, "work cycle time exceeded count: threshold=100ms") >= 0);
}

#[test]
fn a_second_archive_on_the_directory_is_refused() {
    let world = World::new(|_| ());
    let started = Archive::launch(
        archive_context(world.directory.path()),
        MappedMemory,
        FileStorage::inline(),
        &PausingClock.now(),
    );
    assert!(matches!(started, Err(ArchiveError::MarkFile(_))));
}

#[test]
fn a_killed_archive_comes_back_with_what_it_had_recorded() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..500, 200);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    let World { agents, directory, .. } = world;
    drop(agents);
    let mut world = World::start(directory, |_| ());
    world.connect();
    let stop = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(stop), position);
    assert_eq!(world.replay(id, 0, -1, 500), (0..500).collect::<Vec<_>>());
}
