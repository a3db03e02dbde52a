//! Removing files: every file of the recording at or beyond the position, whatever its name holds.

use harrier_archive::RecordingDescriptor;
use harrier_archive::client::ReplayOptions;
use harrier_archive::codec::Signal;
use harrier_protocol::counter_types::type_id;

use crate::rig::{CHANNEL, World, catalog_of, descriptor};

const SEGMENT: i64 = 128 << 10;

/// Files of recording 0, which stopped on a boundary, with leftovers; one file belongs to another recording.
const FILES: [&str; 8] = [
    "0-0.rec",
    "0-131072.rec",
    "0-131072.rec.del",
    "0-262144.rec",
    "0-262177.rec",
    "0-393216.rec",
    "0-x.rec",
    "10-0.rec",
];

fn names(world: &World) -> Vec<String> {
    let names = std::fs::read_dir(world.archive_directory()).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with("archive"));
    names.sort();
    names
}

#[test]
fn truncations_and_purges_list_the_directory() {
    let truncate = |position: i64| {
        move |world: &mut World| world.client.truncate_recording(&world.aeron, 0, position).unwrap()
    };
    let purge = |world: &mut World| world.client.purge_recording(&world.aeron, 0).unwrap();
    type Ask<'a> = &'a dyn Fn(&mut World) -> i64;
    let cases: [(Ask<'_>, i64, &[&str]); 4] = [
        (&truncate(2 * SEGMENT), 3, &["0-0.rec", "0-131072.rec", "0-131072.rec.del", "0-x.rec", "10-0.rec"]),
        (&truncate(SEGMENT), 5, &["0-0.rec", "0-x.rec", "10-0.rec"]),
        (&truncate(0), 7, &["10-0.rec"]),
        (&purge, 7, &["10-0.rec"]),
    ];
    for (ask, count, left) in cases {
        let mut world = World::on_files(&catalog_of(&[descriptor()]), &FILES);
        let request = ask(&mut world);
        assert_eq!(world.ok(request), count);
        assert_eq!(world.signal(Signal::Delete), (0, -1));
        assert_eq!(names(&world), left);
    }
}

#[test]
fn a_purge_behind_a_truncation_to_the_start_removes_nothing() {
    let mut world = World::on_files(&catalog_of(&[descriptor()]), &FILES);
    let request = world.client.truncate_recording(&world.aeron, 0, 0).unwrap();
    assert_eq!(world.ok(request), 7);
    world.signal(Signal::Delete);
    let request = world.client.purge_recording(&world.aeron, 0).unwrap();
    assert_eq!(world.ok(request), 0);
    assert_eq!(world.signal(Signal::Delete), (0, -1));
}

#[test]
fn detached_and_purged_segments_are_found_by_their_names() {
    let recording = RecordingDescriptor { start_position: SEGMENT, ..descriptor() };
    let mut world = World::on_files(&catalog_of(&[recording]), &["0-33.rec", "0-0.rec.del", "0-131072.rec"]);
    let request = world.client.delete_detached_segments(&world.aeron, 0).unwrap();
    assert_eq!(world.ok(request), 2);
    world.signal(Signal::Delete);
    assert_eq!(names(&world), ["0-131072.rec"]);
    std::fs::write(world.archive_directory().join("0-131104.rec"), []).unwrap();
    let request = world.client.purge_segments(&world.aeron, 0, 2 * SEGMENT).unwrap();
    assert_eq!(world.ok(request), 2);
    world.signal(Signal::Delete);
    assert_eq!(names(&world), Vec::<String>::new());
}

#[test]
fn a_migration_takes_everything_along_or_removes_it() {
    let later =
        RecordingDescriptor { start_position: 2 * SEGMENT, stop_position: 2 * SEGMENT + 64, ..descriptor() };
    let mut world = World::on_files(&catalog_of(&[descriptor(), later]), &FILES);
    let request = world.client.migrate_segments(&world.aeron, 0, 1).unwrap();
    assert_eq!(world.ok(request), 2);
    assert_eq!(world.signal(Signal::Delete), (0, -1));
    assert_eq!(names(&world), ["0-x.rec", "1-0.rec", "1-131072.rec", "10-0.rec"]);
}

#[test]
fn a_migration_does_not_overwrite_the_empty_next_segment() {
    let (start, stop) = (2 * SEGMENT, 2 * SEGMENT + 64);
    let later = RecordingDescriptor { start_position: start, stop_position: stop, ..descriptor() };
    let mut world = World::on_files(&catalog_of(&[descriptor(), later]), &["0-262144.rec", "1-262144.rec"]);
    let request = world.client.migrate_segments(&world.aeron, 1, 0).unwrap();
    let (_, message) = world.refused(request);
    assert!(message.starts_with("preexisting dst segment file "), "{message}");
    // A truncation to the stop position removes it.
    let request = world.client.truncate_recording(&world.aeron, 0, start).unwrap();
    assert_eq!(world.ok(request), 1);
    world.signal(Signal::Delete);
    let request = world.client.migrate_segments(&world.aeron, 1, 0).unwrap();
    assert_eq!(world.ok(request), 1);
    let request = world.client.stop_position(&world.aeron, 0).unwrap();
    assert_eq!(world.ok(request), stop);
}

#[test]
fn a_truncation_stops_the_replays_that_it_cuts() {
    let mut world = World::new(|context| context.connect_timeout_ns = 60_000_000_000);
    let (id, stop) = world.record(CHANNEL, 0..1_000);
    let cut = 100 * 256;
    let mut subscriptions = Vec::new();
    for (stream_id, length) in [(77, -1), (78, cut)] {
        let added = world.aeron.add_subscription("aeron:ipc", stream_id).unwrap();
        let mut subscription =
            world.until("the subscription", |world| world.aeron.subscription(added).unwrap());
        let options = ReplayOptions::default();
        let request =
            world.client.replay(&world.aeron, id, 0, length, "aeron:ipc", stream_id, options).unwrap();
        world.ok(request);
        world.until("the image", |_| subscription.is_connected().then_some(()));
        subscriptions.push(subscription);
    }
    assert_eq!(world.counter(type_id::ARCHIVE_REPLAY_SESSIONS), 2);
    let request = world.client.truncate_recording(&world.aeron, id, cut).unwrap();
    // Segment 0 stays; the one behind it is removed.
    assert_eq!(world.ok(request), 1);
    assert!(stop > SEGMENT);
    assert!(world.counter(type_id::ARCHIVE_REPLAY_SESSIONS) <= 1);
    world.until("the end of the image", |_| (!subscriptions[0].is_connected()).then_some(()));
    // The replay that ends where the recording now ends goes on.
    let mut count = 0;
    world.until("the replay", |_| {
        subscriptions[1].poll(50, &mut |_, _| count += 1);
        (count == 100).then_some(())
    });
    let request = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), cut);
}
