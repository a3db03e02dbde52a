//! Recording events.

use harrier_archive::SourceLocation;
use harrier_archive::codec::{RecordingEvent, Signal};

use crate::rig::{CHANNEL, STREAM_ID, World};

#[test]
fn recordings_announce_start_progress_and_stop() {
    let mut world = World::new(|context| {
        context.recording_events_enabled = true;
        context.recording_events_channel = "aeron:ipc?term-length=64k".into();
    });
    let id = world.aeron.add_subscription("aeron:ipc", 30).unwrap();
    let mut subscription = world.until("the subscription", |world| world.aeron.subscription(id).unwrap());
    world.until("the image", |_| subscription.is_connected().then_some(()));
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, local, true).unwrap();
    world.ok(start);
    let channel = format!("{CHANNEL}|init-term-id=3|term-id=3|term-offset=4096");
    let mut publication = world.publication(&channel);
    let session_id = publication.session_id();
    world.publish(&mut publication, 0..300, 200);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);

    let (mut started, mut positions, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    world.until("the last event", |_| {
        subscription.poll(100, &mut |message, _| match RecordingEvent::decode(message).unwrap().unwrap() {
            RecordingEvent::Started {
                recording_id,
                start_position,
                session_id,
                stream_id,
                channel,
                source_identity,
            } => {
                let texts = (channel.to_owned(), source_identity.to_owned());
                started.push((recording_id, start_position, session_id, stream_id, texts));
            }
            RecordingEvent::Progress { recording_id, start_position, position } => {
                assert_eq!((recording_id, start_position), (id, 4_096));
                positions.push(position);
            }
            RecordingEvent::Stopped { recording_id, start_position, stop_position } => {
                stopped.push((recording_id, start_position, stop_position));
            }
        });
        (!stopped.is_empty()).then_some(())
    });
    let texts = (CHANNEL.to_owned(), "aeron:ipc".to_owned());
    assert_eq!(started, [(id, 4_096, session_id, STREAM_ID, texts)]);
    assert!(positions.is_sorted() && positions.last() == Some(&position), "{positions:?}");
    assert_eq!(stopped, [(id, 4_096, position)]);
}
