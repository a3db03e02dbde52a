//! One flipped bit at random places of an archive with checksums: readers get an error that names file and offset, never
//! other bytes.

use harrier_archive::client::{ArchiveAnswer, ReplayOptions};
use harrier_archive::{Archive, ArchiveContext, Checksum};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::{Agent, Clock, Rng};

use crate::rig::{CHANNEL, World, archive_context};

const SEGMENT_FLIPS: i32 = 400;
const CATALOG_FLIPS: usize = 200;
const MESSAGES: u64 = 700;

fn stamped(context: &mut ArchiveContext) {
    context.record_checksum = Some(Checksum::Crc32c);
}

/// The message of a number; `World::publish` sends it.
fn message(number: u64) -> Vec<u8> {
    let mut message = vec![3; 200];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

/// Replays everything on a stream of its own; returns the number of right messages and the archive's error, if any.
fn replay(world: &mut World, stream_id: i32) -> (u64, Option<String>) {
    let subscription_id = world.aeron.add_subscription("aeron:ipc", stream_id).unwrap();
    let mut subscription =
        world.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
    let options = ReplayOptions::default();
    let request = world.client.replay(&world.aeron, 0, 0, -1, "aeron:ipc", stream_id, options).unwrap();
    let (mut count, mut assembler) = (0, FragmentAssembler::new());
    let error = world.until("the end of the replay", |world| {
        subscription.poll(50, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |bytes, _| {
                assert_eq!(bytes, message(count));
                count += 1;
            });
        });
        match world.client.poll_answer() {
            Some(ArchiveAnswer::Error { message, correlation_id, .. }) if correlation_id == request => {
                Some(Some(message))
            }
            _ => (count == MESSAGES).then_some(None),
        }
    });
    (count, error)
}

#[test]
fn a_flipped_bit_of_a_segment_ends_the_replay_with_file_and_offset() {
    let mut world = World::new(stamped);
    let (_, stop) = world.record(CHANNEL, 0..MESSAGES);
    let segment = 128 << 10;
    let mut rng = Rng::new(20);
    for stream_id in 100..100 + SEGMENT_FLIPS {
        let at = rng.below(stop as u64) as i64;
        let base = at / segment * segment;
        let name = format!("0-{base}.rec");
        let path = world.archive_directory().join(&name);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[(at - base) as usize] ^= 1 << rng.below(8);
        std::fs::write(&path, damaged).unwrap();
        let (count, error) = replay(&mut world, stream_id);
        let error = error.unwrap_or_else(|| panic!("{name}: nothing was found at {}", at - base));
        assert!(error.contains(&format!("{name}: frame at offset ")) && count < MESSAGES, "{error}");
        std::fs::write(&path, whole).unwrap();
    }
    assert_eq!(replay(&mut world, 99), (MESSAGES, None));
}

#[test]
fn a_flipped_bit_of_the_catalog_is_found_at_the_start() {
    let mut world = World::new(stamped);
    for count in 1..4 {
        world.record(CHANNEL, 0..count);
    }
    let World { mut agents, directory, .. } = world;
    let now = PausingClock.now();
    agents.iter_mut().rev().for_each(|agent| agent.on_close(&now));
    drop(agents);
    let path = directory.path().join("archive/archive.catalog");
    let whole = std::fs::read(&path).unwrap();
    let launch = || {
        let mut context = archive_context(directory.path());
        stamped(&mut context);
        Archive::launch(context, MappedMemory, FileStorage::inline(), &PausingClock.now())
    };
    let mut archive = launch().unwrap();
    let entries = archive.catalog().entries().to_vec();
    assert!(entries.len() == 3 && archive.warnings().is_empty());
    archive.on_close(&now);
    drop(archive);
    let end = entries.last().map(|last| last.offset + last.length).unwrap();
    let (mut rng, mut refused, mut marked) = (Rng::new(21), 0, 0);
    for _ in 0..CATALOG_FLIPS {
        let at = rng.below(end as u64) as usize;
        let bit = rng.below(8);
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << bit;
        std::fs::write(&path, damaged).unwrap();
        let what = format!("bit {bit} at {at}");
        let mut archive = match launch() {
            Ok(archive) => archive,
            Err(error) => {
                assert!(at < 32 && error.to_string().contains("archive.catalog"), "{what}: {error}");
                refused += 1;
                continue;
            }
        };
        for entry in &entries {
            let id = entry.descriptor.recording_id;
            let is_hit = (entry.offset..entry.offset + entry.length).contains(&at);
            match archive.catalog().get(id) {
                Some(found) => assert_eq!(*found, entry.descriptor, "{what}"),
                None => {
                    assert!(is_hit, "{what}: recording {id} is not served");
                    marked += 1;
                }
            }
            // Header fields without a meaning may differ, and the state has no checksum.
            let in_entry = at.wrapping_sub(entry.offset);
            if is_hit && (in_entry < 4 || (8..12).contains(&in_entry) || in_entry >= 32) {
                let warning = format!("entry at offset {} is damaged", entry.offset);
                assert!(archive.warnings().iter().any(|text| text.contains(&warning)), "{what}");
            }
        }
        archive.on_close(&now);
    }
    assert!(refused > 0 && marked > 100, "{refused} {marked}");
}
