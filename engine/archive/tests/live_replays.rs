//! Replays of recordings that have just started.

use harrier_archive::SourceLocation;
use harrier_archive::client::{ArchiveAnswer, ReplayOptions};
use harrier_archive::codec::Signal;
use harrier_client::Subscription;

use crate::rig::{CHANNEL, STREAM_ID, World};

fn subscription(world: &mut World) -> Subscription {
    let id = world.aeron.add_subscription("aeron:ipc", 77).unwrap();
    world.until("the subscription", |world| world.aeron.subscription(id).unwrap())
}

fn receive(world: &mut World, subscription: &mut Subscription, wanted: usize) {
    let mut count = 0;
    world.until("the replay", |_| {
        subscription.poll(50, &mut |_, _| count += 1);
        (count == wanted).then_some(())
    });
}

#[test]
fn a_replay_follows_a_recording_that_is_still_empty() {
    let mut world = World::new(|_| ());
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, true).unwrap();
    world.ok(start);
    let mut replay = subscription(&mut world);
    let publication_id = world.aeron.add_exclusive_publication(CHANNEL, STREAM_ID).unwrap();
    // One request in each duty cycle: one of them meets the recording before it has its position counter.
    let options = ReplayOptions::default();
    let mut accepted = 0;
    world.until("a replay", |world| {
        while let Some(answer) = world.client.poll_answer() {
            match answer {
                ArchiveAnswer::Ok { .. } => accepted += 1,
                ArchiveAnswer::Error { code, message, .. } => assert_eq!(code, 5, "{message}"),
                _ => {}
            }
        }
        if accepted == 0 {
            world.client.replay(&world.aeron, 0, -1, -1, "aeron:ipc", 77, options).unwrap();
        }
        (accepted > 0).then_some(())
    });
    let mut publication =
        world.until("the publication", |world| world.aeron.exclusive_publication(publication_id).unwrap());
    world.publish(&mut publication, 0..100, 200);
    world.until("the messages", |_| {
        let mut count = 0;
        replay.poll(50, &mut |_, _| count += 1);
        (count > 0).then_some(())
    });
}

#[test]
fn a_replay_waits_for_the_segment_that_the_recorder_is_about_to_create() {
    let mut world = World::new(|context| context.connect_timeout_ns = 60_000_000_000);
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..100, 200);
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, publication.position());
    let (path, away) = (world.archive_directory().join("0-0.rec"), world.archive_directory().join("away"));
    std::fs::rename(&path, &away).unwrap();
    let mut replay = subscription(&mut world);
    let options = ReplayOptions::default();
    let request = world.client.replay(&world.aeron, id, 0, -1, "aeron:ipc", 77, options).unwrap();
    for _ in 0..100 {
        world.step();
        assert!(world.client.poll_answer().is_none());
    }
    std::fs::rename(&away, &path).unwrap();
    world.ok(request);
    receive(&mut world, &mut replay, 100);
}

#[test]
fn an_empty_replay_is_refused_once() {
    let mut world = World::new(|_| ());
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, true).unwrap();
    world.ok(start);
    let publication = world.publication(CHANNEL);
    let (id, _) = world.signal(Signal::Start);
    drop(publication);
    world.signal(Signal::Stop);
    let options = ReplayOptions::default();
    let request = world.client.replay(&world.aeron, id, 0, -2, "aeron:ipc", 77, options).unwrap();
    assert_eq!(world.refused(request).0, 15);
    let request = world.client.start_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), 0);
    assert_eq!(world.counter(harrier_protocol::counter_types::type_id::ARCHIVE_REPLAY_SESSIONS), 0);
}
