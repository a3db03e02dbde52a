//! Catalogs with damaged entries: the archive starts and serves all others.

use harrier_archive::catalog::{Catalog, RecordingState};
use harrier_archive::client::ArchiveAnswer;
use harrier_archive::{Archive, ArchiveError, ArchiveMark, RecordingDescriptor};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_protocol::counter_types::type_id;
use harrier_ringbuf::Clock;

use crate::rig::{CHANNEL, World, archive_context, catalog_of, descriptor, directory};

/// Offsets of fields in an entry (spec 03 §4.3).
const LENGTH: usize = 0;
const STATE: usize = 4;
const RECORDING_ID: usize = 48;
const START_POSITION: usize = 72;
const TERM_LENGTH: usize = 96;
const STRIPPED_LENGTH: usize = 112;

/// Length of each entry.
fn entry_length() -> usize {
    Catalog::read(&catalog_of(&[descriptor()]), None).unwrap().entries()[0].length
}

fn listed(world: &mut World) -> Vec<i64> {
    let request = world.client.list_recordings(&world.aeron, 0, 10).unwrap();
    let mut ids = Vec::new();
    world.until("the listing", |world| match world.client.poll_answer()? {
        ArchiveAnswer::Descriptor { correlation_id, descriptor } if correlation_id == request => {
            ids.push(descriptor.recording_id);
            None
        }
        ArchiveAnswer::RecordingUnknown { .. } => Some(()),
        _ => None,
    });
    ids
}

#[test]
fn one_damaged_entry_is_marked_and_reported_and_all_others_are_served() {
    let length = entry_length();
    for damaged in 0..3_usize {
        for (field, value) in [
            (START_POSITION, 33),
            (TERM_LENGTH, 0),
            (STRIPPED_LENGTH, 1 << 20),
            (STATE, 77),
            (RECORDING_ID, 77),
            (LENGTH, 0),
            (LENGTH, -5),
            (LENGTH, 1 << 28),
            (LENGTH, length as i32 - 32 - 64),
        ] {
            let what = format!("entry {damaged}, field at {field}: {value}");
            let mut bytes = catalog_of(&[descriptor(), descriptor(), descriptor()]);
            let at = 32 + damaged * length;
            bytes[at + field..][..4].copy_from_slice(&i32::to_le_bytes(value));
            let mut world = World::on_files(&bytes, &["0-0.rec", "1-0.rec", "2-0.rec"]);
            let others: Vec<i64> = (0..3).filter(|id| *id != damaged as i64).collect();
            assert_eq!(listed(&mut world), others, "{what}");
            let errors = world.errors();
            assert!(
                errors.len() == 1 && errors[0].contains(&format!("entry at offset {at} ")),
                "{what}: {errors:?}"
            );
            assert_eq!(world.counter(type_id::ARCHIVE_ERROR_COUNT), 1, "{what}");
            // New recordings get new ids, and a grown entry moves what is behind it.
            let (id, _) = world.record(CHANNEL, 0..10);
            assert_eq!(id, 3, "{what}");
            let long = format!("aeron:ipc?alias={}", "x".repeat(200));
            let update = world.client.update_channel(&world.aeron, others[0], &long).unwrap();
            assert_eq!(world.ok(update), 0);

            let World { agents, directory, .. } = world;
            drop(agents);
            let folder = directory.path().join("archive");
            let mut world = World::start(directory, |_| ());
            world.connect();
            let left: Vec<i64> = others.iter().copied().chain([3]).collect();
            assert_eq!(listed(&mut world), left, "{what}");
            assert_eq!(world.errors(), Vec::<String>::new(), "{what}: reported once");
            let kept =
                Catalog::salvage(&std::fs::read(folder.join("archive.catalog")).unwrap(), None).unwrap();
            assert!(kept.damage.is_empty() && kept.writes.is_empty(), "{what}: {:?}", kept.damage);
            let states = kept.catalog.entries().iter().filter(|entry| entry.state == RecordingState::Valid);
            assert_eq!(states.count(), 3, "{what}");
        }
    }
}

#[test]
fn a_start_that_fails_leaves_no_active_mark() {
    let directory = directory();
    let folder = directory.path().join("archive");
    std::fs::create_dir(&folder).unwrap();
    let mut bytes = catalog_of(&[RecordingDescriptor { stop_position: 64, ..descriptor() }]);
    bytes[16] = 3;
    std::fs::write(folder.join("archive.catalog"), bytes).unwrap();
    let context = archive_context(directory.path());
    let now = PausingClock.now();
    let started = Archive::launch(context, MappedMemory, FileStorage::inline(), &now);
    assert!(matches!(started, Err(ArchiveError::Catalog { .. })));
    assert_eq!(ArchiveMark::read(&MappedMemory, &folder).unwrap().unwrap().activity_ms, -1);
}
