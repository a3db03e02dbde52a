//! Requests with impossible arguments: each gets one answer, nothing changes, and the archive keeps serving.

use harrier_archive::SourceLocation;
use harrier_archive::client::{ArchiveAnswer, ArchiveClientError, ReplayOptions, ReplicationParams};
use harrier_protocol::counter_types::type_id;

use crate::rig::{CHANNEL, STREAM_ID, World};

const NUMBERS: [i64; 12] = [
    i64::MIN,
    i64::MIN + 32,
    i32::MIN as i64,
    -4_096,
    -33,
    -3,
    33,
    1 << 40,
    i32::MAX as i64,
    i64::MAX - 31,
    i64::MAX - 1,
    i64::MAX,
];

/// Sends a request; returns its correlation id.
type Ask = dyn Fn(&mut World) -> Result<i64, ArchiveClientError>;

/// Sends the request until there is room for it; returns its correlation id.
fn send(world: &mut World, ask: &dyn Fn(&mut World) -> Result<i64, ArchiveClientError>) -> i64 {
    world.until("room", |world| match ask(world) {
        Ok(correlation_id) => Some(correlation_id),
        Err(ArchiveClientError::BackPressured) => None,
        Err(error) => panic!("{error}"),
    })
}

/// Requests with the number at each place of an id or a position.
fn requests(id: i64, number: i64) -> Vec<Box<Ask>> {
    let options = move |limit: Option<i32>| ReplayOptions {
        limit_counter_id: limit,
        file_io_max_length: Some(number as i32),
    };
    vec![
        Box::new(move |w| w.client.start_position(&w.aeron, number)),
        Box::new(move |w| w.client.stop_position(&w.aeron, number)),
        Box::new(move |w| w.client.recording_position(&w.aeron, number)),
        Box::new(move |w| w.client.max_recorded_position(&w.aeron, number)),
        Box::new(move |w| w.client.truncate_recording(&w.aeron, number, 0)),
        Box::new(move |w| w.client.truncate_recording(&w.aeron, id, number)),
        Box::new(move |w| w.client.purge_recording(&w.aeron, number)),
        Box::new(move |w| w.client.detach_segments(&w.aeron, id, number)),
        Box::new(move |w| w.client.purge_segments(&w.aeron, id, number)),
        Box::new(move |w| w.client.attach_segments(&w.aeron, number)),
        Box::new(move |w| w.client.delete_detached_segments(&w.aeron, number)),
        Box::new(move |w| w.client.migrate_segments(&w.aeron, number, id)),
        Box::new(move |w| w.client.migrate_segments(&w.aeron, id, number)),
        Box::new(move |w| w.client.stop_recording_by_subscription(&w.aeron, number)),
        Box::new(move |w| w.client.stop_recording_by_identity(&w.aeron, number)),
        Box::new(move |w| w.client.stop_recording(&w.aeron, CHANNEL, number as i32)),
        Box::new(move |w| w.client.stop_replay(&w.aeron, number)),
        Box::new(move |w| w.client.stop_all_replays(&w.aeron, number)),
        Box::new(move |w| w.client.stop_replication(&w.aeron, number)),
        Box::new(move |w| w.client.list_recording(&w.aeron, number)),
        Box::new(move |w| w.client.list_recordings(&w.aeron, number, number as i32)),
        Box::new(move |w| w.client.find_last_matching_recording(&w.aeron, number, "", 1, number as i32)),
        Box::new(move |w| w.client.update_channel(&w.aeron, number, CHANNEL)),
        Box::new(move |w| {
            let location = SourceLocation::Local;
            w.client.extend_recording(&w.aeron, id, CHANNEL, number as i32, location, false)
        }),
        Box::new(move |w| w.client.replay(&w.aeron, number, 0, -1, "aeron:ipc", 77, options(None))),
        Box::new(move |w| w.client.replay(&w.aeron, id, number, -1, "aeron:ipc", 77, options(None))),
        Box::new(move |w| {
            w.client.replay(&w.aeron, id, 0, -1, "aeron:ipc", 77, options(Some(number as i32)))
        }),
        Box::new(move |w| {
            let params = ReplicationParams::default().target_recording_id(number);
            w.client.replicate(&w.aeron, number, number as i32, "aeron:ipc", &params)
        }),
    ]
}

#[test]
fn impossible_numbers_change_nothing() {
    let mut world = World::new(|context| {
        context.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into());
        context.connect_timeout_ns = 60_000_000_000;
    });
    // A recording that does not begin at 0.
    let channel = format!("{CHANNEL}|init-term-id=7|term-id=8|term-offset=4096");
    let (id, stop) = world.record(&channel, 0..1_000);
    let names = |world: &World| {
        let names = std::fs::read_dir(world.archive_directory()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(&world);
    for number in NUMBERS {
        for (index, ask) in requests(id, number).iter().enumerate() {
            let wanted = send(&mut world, ask.as_ref());
            world.until("the answer", |world| {
                let answer = world.client.poll_answer()?;
                (answer.correlation_id() == wanted).then(|| {
                    let is_signal = matches!(answer, ArchiveAnswer::Signal { .. });
                    assert!(!is_signal, "request {index} with {number}: {answer:?}");
                })
            });
        }
    }
    assert_eq!((world.errors(), world.counter(type_id::ARCHIVE_ERROR_COUNT)), (Vec::new(), 0));
    assert_eq!(names(&world), before);
    let request = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), stop);
    assert_eq!(world.replay(id, -1, -1, 1_000).len(), 1_000);
}

#[test]
fn impossible_channels_are_refused() {
    let mut world = World::new(|_| ());
    let (id, stop) = world.record(CHANNEL, 0..10);
    let long = format!("aeron:udp?endpoint=127.0.0.1:1|alias={}", "x".repeat(8_000));
    for channel in [
        "",
        "aeron",
        "aeron:",
        "aeron:tcp?endpoint=a:1",
        "aeron:udp",
        "aeron:udp?endpoint=",
        "aeron:udp?endpoint=localhost:99999",
        "aeron:ipc?term-length=7",
        "aeron:ipc?session-id=none",
        "aeron-spy:aeron-spy:aeron:ipc",
        "aeron:ipc?alias=\u{e9}",
        &long,
    ] {
        let channel = channel.to_owned();
        let (location, options) = (SourceLocation::Remote, ReplayOptions::default());
        let requests = [
            send(&mut world, &|w| w.client.replay(&w.aeron, id, 0, -1, &channel, 77, options)),
            send(&mut world, &|w| w.client.start_recording(&w.aeron, &channel, STREAM_ID, location, false)),
        ];
        let mut open = requests.to_vec();
        world.until("the answers", |world| {
            let answer = world.client.poll_answer()?;
            open.retain(|request| *request != answer.correlation_id());
            open.is_empty().then_some(())
        });
        // What was accepted, because the channel has a meaning after all, is stopped again.
        let stopped = send(&mut world, &|w| w.client.stop_all_replays(&w.aeron, -1));
        world.ok(stopped);
        let stopped = send(&mut world, &|w| w.client.stop_recording(&w.aeron, &channel, STREAM_ID));
        world.answer(stopped);
    }
    let request = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), stop);
}
