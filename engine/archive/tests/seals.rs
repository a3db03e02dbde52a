//! Stamped recordings: every replay finds damage, and frames of other implementations are left alone.

use std::path::PathBuf;

use harrier_archive::client::{ArchiveAnswer, ReplayOptions};
use harrier_archive::codec::Signal;
use harrier_archive::{ArchiveContext, Checksum, SourceLocation, TornTail};
use harrier_client::ExclusivePublication;
use harrier_platform::PausingClock;
use harrier_ringbuf::Clock;
use harrier_ringbuf::assembly::FragmentAssembler;

use crate::rig::{CHANNEL, STREAM_ID, World};

fn stamped(context: &mut ArchiveContext) {
    context.record_checksum = Some(Checksum::Crc32c);
    context.torn_tail = TornTail::Cut;
}

fn unstamped(context: &mut ArchiveContext) {
    context.torn_tail = TornTail::Cut;
}

/// Starts or extends a recording; returns its id and publication once the first messages are recorded.
fn record(
    world: &mut World,
    extends: Option<(i64, &str)>,
    range: std::ops::Range<u64>,
) -> (i64, ExclusivePublication) {
    let (aeron, client) = (&world.aeron, &mut world.client);
    let location = SourceLocation::Local;
    let channel = extends.map_or(CHANNEL, |extends| extends.1);
    let request = match extends {
        None => client.start_recording(aeron, channel, STREAM_ID, location, true),
        Some((id, _)) => client.extend_recording(aeron, id, channel, STREAM_ID, location, true),
    };
    world.ok(request.unwrap());
    let mut publication = world.publication(channel);
    world.publish(&mut publication, range, 200);
    let wanted = if extends.is_some() { Signal::Extend } else { Signal::Start };
    let (id, _) = world.signal(wanted);
    world.recorded(id, publication.position());
    (id, publication)
}

/// Stops a recording; returns its stop position.
fn stop(world: &mut World, publication: ExclusivePublication) -> i64 {
    drop(publication);
    world.signal(Signal::Stop).1
}

/// Stops the archive cleanly or as in a crash, and starts another one.
fn restart(world: World, is_crash: bool, change: impl FnOnce(&mut ArchiveContext)) -> World {
    let World { mut agents, directory, .. } = world;
    if !is_crash {
        let now = PausingClock.now();
        agents.iter_mut().rev().for_each(|agent| agent.on_close(&now));
    }
    drop(agents);
    let mut world = World::start(directory, change);
    world.connect();
    world
}

fn file(world: &World, name: &str) -> PathBuf {
    world.directory.path().join("archive").join(name)
}

fn seals(world: &World) -> Vec<String> {
    let names = std::fs::read_dir(world.directory.path().join("archive")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".seal"));
    names.sort();
    names
}

fn flip(world: &World, name: &str, bit: usize) {
    let mut bytes = std::fs::read(file(world, name)).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(file(world, name), bytes).unwrap();
}

/// Replays from a position to the end; returns the message numbers and the archive's error, if any.
fn replay(world: &mut World, id: i64, position: i64, count: usize) -> (Vec<u64>, Option<String>) {
    let subscription_id = world.aeron.add_subscription("aeron:ipc", 77).unwrap();
    let mut subscription =
        world.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
    let options = ReplayOptions::default();
    let request = world.client.replay(&world.aeron, id, position, -1, "aeron:ipc", 77, options).unwrap();
    let (mut numbers, mut assembler) = (Vec::new(), FragmentAssembler::new());
    let error = world.until("the end of the replay", |world| {
        subscription.poll(50, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                numbers.push(u64::from_le_bytes(message[..8].try_into().unwrap()));
            });
        });
        match world.client.poll_answer() {
            Some(ArchiveAnswer::Error { message, correlation_id, .. }) if correlation_id == request => {
                Some(Some(message))
            }
            _ => (numbers.len() >= count).then_some(None),
        }
    });
    (numbers, error)
}

fn all(count: u64) -> (Vec<u64>, Option<String>) {
    ((0..count).collect(), None)
}

/// Length of a frame with a message of 200 bytes.
const FRAME: usize = 256;

#[test]
fn every_replay_finds_a_flipped_bit_of_header_payload_and_alignment() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..1_000);
    let stop = stop(&mut world, publication);
    assert_eq!(seals(&world), ["0-0.seal", "0-131072.seal"]);
    assert_eq!(replay(&mut world, id, 0, 1_000), all(1_000));
    // Length, flags, type, reserved value; the session field; first and last byte of the payload; alignment.
    for bit in [0, 3, 5 * 8 + 6, 5 * 8 + 7, 6 * 8, 24 * 8, 12 * 8, 32 * 8, 231 * 8 + 7, 255 * 8] {
        flip(&world, "0-0.rec", FRAME * 300 * 8 + bit);
        for position in [0, FRAME as i64 * 300, FRAME as i64 * 310] {
            let (numbers, error) = replay(&mut world, id, position, 1_000);
            let error = error.unwrap();
            assert!(error.contains("0-0.rec: frame at offset ") && error.contains("restore it"), "{error}");
            assert!(numbers.len() < 300 && numbers.is_sorted(), "bit {bit} from {position}");
        }
        // Frames after the bad one are replayed without error.
        let behind = 131_072 + 128 * FRAME as i64;
        let count = ((stop - behind) / FRAME as i64) as usize;
        assert_eq!(replay(&mut world, id, behind, count).1, None);
        flip(&world, "0-0.rec", FRAME * 300 * 8 + bit);
    }
    assert_eq!(replay(&mut world, id, 0, 1_000), all(1_000));
}

#[test]
fn an_archive_that_was_killed_goes_on_with_the_seal() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..300);
    let position = publication.position();
    let mut world = restart(world, true, stamped);
    assert_eq!(replay(&mut world, id, 0, 300), all(300));
    flip(&world, "0-0.rec", 10 * FRAME * 8);
    assert!(replay(&mut world, id, 0, 300).1.unwrap().contains("is not the one that was written"));
    flip(&world, "0-0.rec", 10 * FRAME * 8);

    // The extended and stopped recording is intact; both parts of the segment are verified.
    let channel = format!(
        "{CHANNEL}|init-term-id={}|term-id={}|term-offset={}",
        term(&world),
        term(&world) + (position >> 16) as i32,
        position & 0xFFFF
    );
    let (_, publication) = record(&mut world, Some((id, &channel)), 300..400);
    let mut world = restart(world, false, stamped);
    drop(publication);
    assert_eq!(replay(&mut world, id, 0, 400), all(400));
    for frame in [20, 350] {
        flip(&world, "0-0.rec", frame * FRAME * 8 + 1);
        assert!(replay(&mut world, id, 0, 400).1.is_some(), "frame {frame}");
        flip(&world, "0-0.rec", frame * FRAME * 8 + 1);
    }
}

/// Initial term id of recording 0.
fn term(world: &World) -> i32 {
    let bytes = std::fs::read(file(world, "archive.catalog")).unwrap();
    i32::from_le_bytes(bytes[32 + 88..32 + 92].try_into().unwrap())
}

fn continuation(world: &World, position: i64) -> String {
    let first = term(world);
    format!(
        "{CHANNEL}|init-term-id={first}|term-id={}|term-offset={}",
        first.wrapping_add((position >> 16) as i32),
        position & 0xFFFF
    )
}

#[test]
fn what_is_recorded_without_checksums_in_between_is_not_verified() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..100);
    let first = stop(&mut world, publication);
    let mut world = restart(world, false, unstamped);
    let channel = continuation(&world, first);
    let (_, publication) = record(&mut world, Some((id, &channel)), 100..200);
    let second = stop(&mut world, publication);
    // After a crash the archive must not treat unstamped frames as torn.
    let mut world = restart(world, true, stamped);
    assert_eq!(replay(&mut world, id, 0, 200), all(200));
    let channel = continuation(&world, second);
    let (_, publication) = record(&mut world, Some((id, &channel)), 200..300);
    stop(&mut world, publication);
    assert_eq!(replay(&mut world, id, 0, 300), all(300));
    flip(&world, "0-0.rec", 250 * FRAME * 8 + 40 * 8);
    assert!(replay(&mut world, id, 0, 300).1.is_some());
}

#[test]
fn another_make_of_archive_takes_the_seals_of_what_it_changes() {
    for is_extended in [false, true] {
        let mut world = World::new(stamped);
        let (id, publication) = record(&mut world, None, 0..100);
        let position = stop(&mut world, publication);
        if is_extended {
            // The existing bytes stay stamped; frames that another implementation appends do not.
            world = restart(world, false, unstamped);
            let channel = continuation(&world, position);
            let (_, publication) = record(&mut world, Some((id, &channel)), 100..150);
            stop(&mut world, publication);
        }
        let mark = file(&world, "archive-mark.dat");
        let World { mut agents, directory, .. } = world;
        let now = PausingClock.now();
        agents.iter_mut().rev().for_each(|agent| agent.on_close(&now));
        drop(agents);
        // Another implementation writes its process id into the mark file and leaves the rest unchanged.
        let mut bytes = std::fs::read(&mark).unwrap();
        bytes[32..40].copy_from_slice(&77_i64.to_le_bytes());
        std::fs::write(&mark, bytes).unwrap();
        let mut world = World::start(directory, stamped);
        world.connect();
        assert_eq!(seals(&world).is_empty(), is_extended, "{:?}", seals(&world));
        let count = if is_extended { 150 } else { 100 };
        assert_eq!(replay(&mut world, id, 0, count as usize), all(count));
    }
}

#[test]
fn a_truncated_recording_is_verified_up_to_its_new_end_and_behind_it() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..400);
    stop(&mut world, publication);
    let position = 100 * FRAME as i64;
    let request = world.client.truncate_recording(&world.aeron, id, position).unwrap();
    world.ok(request);
    world.signal(Signal::Delete);
    assert_eq!(replay(&mut world, id, 0, 100), all(100));
    flip(&world, "0-0.rec", 50 * FRAME * 8 + 40 * 8);
    assert!(replay(&mut world, id, 0, 100).1.unwrap().contains("offset 12800 "));
    flip(&world, "0-0.rec", 50 * FRAME * 8 + 40 * 8);
    let channel = continuation(&world, position);
    let (_, publication) = record(&mut world, Some((id, &channel)), 100..200);
    stop(&mut world, publication);
    assert_eq!(replay(&mut world, id, 0, 200), all(200));
    for frame in [99, 100, 150] {
        flip(&world, "0-0.rec", frame * FRAME * 8 + 3);
        assert!(replay(&mut world, id, 0, 200).1.is_some(), "frame {frame}");
        flip(&world, "0-0.rec", frame * FRAME * 8 + 3);
    }
}

#[test]
fn purged_segments_take_their_seals_along() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..1_200);
    stop(&mut world, publication);
    assert_eq!(seals(&world).len(), 3);
    let request = world.client.purge_segments(&world.aeron, id, 131_072).unwrap();
    assert_eq!(world.ok(request), 1);
    world.signal(Signal::Delete);
    assert_eq!(seals(&world), ["0-131072.seal", "0-262144.seal"]);
    let request = world.client.purge_recording(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), 2);
    world.signal(Signal::Delete);
    assert!(seals(&world).is_empty());
}

/// Starts on a directory and returns the error of a refusal.
fn refusal(world: World) -> Option<String> {
    let World { mut agents, directory, .. } = world;
    let now = PausingClock.now();
    agents.iter_mut().rev().for_each(|agent| agent.on_close(&now));
    drop(agents);
    let mut context = crate::rig::archive_context(directory.path());
    stamped(&mut context);
    let storage = harrier_platform::FileStorage::inline();
    let launched = harrier_archive::Archive::launch(context, harrier_platform::MappedMemory, storage, &now);
    launched.err().map(|error| error.to_string())
}

#[test]
fn a_catalog_that_seals_contradict_is_refused() {
    // Start position, initial term id, lengths, stream id; the length of the first entry, which would hide the second.
    for (offset, text) in [
        (32 + 72, "matches neither its checksum nor the seal"),
        (32 + 88, "matches neither its checksum nor the seal"),
        (32 + 108, "matches neither its checksum nor the seal"),
        (32 + 3, "whose segments are there"),
    ] {
        let mut world = World::new(stamped);
        for _ in 0..2 {
            let (_, publication) = record(&mut world, None, 0..10);
            stop(&mut world, publication);
        }
        let bit = if offset == 32 + 3 { 7 } else { 5 };
        flip(&world, "archive.catalog", offset * 8 + bit);
        let refusal = refusal(world).expect("a refusal");
        assert!(refusal.contains(text) && refusal.contains("no command can repair it"), "{refusal}");
    }
}

#[test]
fn a_stop_position_that_was_torn_is_found_again() {
    let mut world = World::new(stamped);
    let (id, publication) = record(&mut world, None, 0..10);
    let position = stop(&mut world, publication);
    flip(&world, "archive.catalog", (32 + 80) * 8 + 6);
    let mut world = restart(world, false, stamped);
    let request = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), position);
}
