//! Refusals: the client is told, in words that programs compare, and the archive has no error.

use harrier_archive::client::{ArchiveAnswer, ReplayOptions, ReplicationParams};
use harrier_archive::codec::Signal;
use harrier_archive::{RecordingDescriptor, SourceLocation};
use harrier_protocol::counter_types::type_id;

use crate::rig::{CHANNEL, STREAM_ID, World, catalog_of, descriptor};

#[test]
fn refusals_answer_the_client_and_are_no_errors_of_the_archive() {
    let mut world =
        World::new(|context| context.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into()));
    let (id, stop) = world.record(CHANNEL, 0..10);
    let World { aeron, client, .. } = &mut world;
    let (local, options) = (SourceLocation::Local, ReplayOptions::default());
    let params = ReplicationParams::default().target_recording_id(77);
    let requests = [
        client.start_position(aeron, 99).unwrap(),
        client.truncate_recording(aeron, 99, 0).unwrap(),
        client.truncate_recording(aeron, id, stop + 32).unwrap(),
        client.truncate_recording(aeron, id, 32).unwrap(),
        client.purge_recording(aeron, 99).unwrap(),
        client.detach_segments(aeron, id, 64).unwrap(),
        client.migrate_segments(aeron, id, id).unwrap(),
        client.stop_recording(aeron, CHANNEL, STREAM_ID).unwrap(),
        client.start_recording(aeron, "nonsense", STREAM_ID, local, false).unwrap(),
        client.extend_recording(aeron, 99, CHANNEL, STREAM_ID, local, false).unwrap(),
        client.replay(aeron, id, stop, -1, "aeron:ipc", 77, options).unwrap(),
        client.replay(aeron, id, 32, -1, "aeron:ipc", 77, options).unwrap(),
        client.replicate(aeron, 0, 10, "aeron:ipc", &params).unwrap(),
    ];
    // The order of answers is that of the work that the requests need.
    let mut refused = std::collections::BTreeSet::new();
    world.until("the refusals", |world| {
        match world.client.poll_answer()? {
            ArchiveAnswer::Error { correlation_id, .. } => refused.insert(correlation_id),
            other => panic!("{other:?}"),
        };
        (refused.len() == requests.len()).then_some(())
    });
    assert!(requests.iter().all(|request| refused.contains(request)));
    assert_eq!((world.counter(type_id::ARCHIVE_ERROR_COUNT), world.errors()), (0, Vec::new()));

    // A missing segment is a fault of the archive.
    std::fs::remove_file(world.archive_directory().join("0-0.rec")).unwrap();
    let request = world.client.replay(&world.aeron, id, 0, -1, "aeron:ipc", 77, options).unwrap();
    let (_, message) = world.refused(request);
    assert_eq!((world.counter(type_id::ARCHIVE_ERROR_COUNT), world.errors()), (1, vec![message]));
}

#[test]
fn a_recording_in_use_is_not_purged() {
    let mut world = World::new(|_| ());
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..300, 200);
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, publication.position());
    let request = world.client.purge_recording(&world.aeron, id).unwrap();
    assert_eq!(world.refused(request), (2, format!("cannot purge active recording {id}")));
    let request = world.client.truncate_recording(&world.aeron, id, 0).unwrap();
    assert_eq!(world.refused(request), (2, "cannot truncate active recording".to_owned()));
    drop(publication);
    world.signal(Signal::Stop);
    let subscription_id = world.aeron.add_subscription("aeron:ipc", 77).unwrap();
    let subscription =
        world.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
    let options = ReplayOptions::default();
    let replay = world.client.replay(&world.aeron, id, 0, -1, "aeron:ipc", 77, options).unwrap();
    world.ok(replay);
    let request = world.client.purge_recording(&world.aeron, id).unwrap();
    assert_eq!(world.refused(request), (2, format!("cannot purge recording with active replay {id}")));
    drop(subscription);
}

#[test]
fn migrations_are_refused_in_the_words_of_the_released_archive() {
    let segment = 128_i64 << 10;
    let source = descriptor();
    let target =
        RecordingDescriptor { start_position: 2 * segment, stop_position: 2 * segment + 64, ..descriptor() };
    let inside = RecordingDescriptor { stop_position: segment + 64, ..descriptor() };
    let recordings = [
        source.clone(),
        RecordingDescriptor { stream_id: 5, ..target.clone() },
        RecordingDescriptor { initial_term_id: 8, ..target.clone() },
        RecordingDescriptor { mtu_length: 4_096, ..target.clone() },
        RecordingDescriptor { term_buffer_length: 128 << 10, ..target.clone() },
        RecordingDescriptor { segment_file_length: 256 << 10, ..target.clone() },
        RecordingDescriptor { start_position: 3 * segment, stop_position: 3 * segment + 64, ..descriptor() },
        inside,
        RecordingDescriptor { start_position: segment + 64, stop_position: 2 * segment, ..descriptor() },
        target,
    ];
    let mut world = World::on_files(&catalog_of(&recordings), &["0-0.rec"]);
    let folder = world.archive_directory();
    for (from, to, expected) in [
        (0, 1, "invalid migrate: srcStreamId=1001 dstStreamId=5".to_owned()),
        (0, 2, "invalid migrate: srcInitialTermId=7 dstInitialTermId=8".to_owned()),
        (0, 3, "invalid migrate: srcMtuLength=1408 dstMtuLength=4096".to_owned()),
        (0, 4, "invalid migrate: srcTermBufferLength=65536 dstTermBufferLength=131072".to_owned()),
        (0, 5, "invalid migrate: srcSegmentFileLength=131072 dstSegmentFileLength=262144".to_owned()),
        (
            0,
            6,
            "invalid migrate: src and dst are not contiguous srcStartPosition=0 srcStopPosition=262144 \
             dstStartPosition=393216 dstStopPosition=393280"
                .to_owned(),
        ),
        (
            7,
            8,
            "invalid migrate: join position is not on segment boundary of src recording seamPosition=131136 \
             startPosition=0 stopPosition=131136 termBufferLength=65536 segmentFileLength=131072"
                .to_owned(),
        ),
        (0, 9, format!("missing src segment file {}", folder.join("0-131072.rec").display())),
    ] {
        let request = world.client.migrate_segments(&world.aeron, from, to).unwrap();
        assert_eq!(world.refused(request), (0, expected));
    }
    for name in ["0-131072.rec", "9-131072.rec"] {
        std::fs::write(folder.join(name), []).unwrap();
    }
    let request = world.client.migrate_segments(&world.aeron, 0, 9).unwrap();
    let text = format!("preexisting dst segment file {}", folder.join("9-131072.rec").display());
    assert_eq!(world.refused(request), (0, text));
}
