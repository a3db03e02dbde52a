//! Further requests: tokens, response channels, inactive sessions, counters.

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext};
use harrier_archive::codec::{ReplayRequest, Request, RequestBody, Response, Signal};
use harrier_archive::{Authenticator, FileClock, SourceLocation};
use harrier_client::{ExclusivePublication, Subscription};
use harrier_platform::{PausingClock, SystemClock};
use harrier_protocol::semantic_version;
use harrier_ringbuf::Clock;

use crate::rig::{CHANNEL, STREAM_ID, World};

/// Records 500 messages; returns the recording id and stop position.
fn record(world: &mut World) -> (i64, i64) {
    let location = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, location, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..500, 96);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);
    (id, position)
}

fn subscription(world: &mut World, channel: &str, stream_id: i32) -> Subscription {
    let id = world.aeron.add_subscription(channel, stream_id).unwrap();
    world.until("the subscription", |world| world.aeron.subscription(id).unwrap())
}

fn publication(world: &mut World, channel: &str) -> ExclusivePublication {
    let id = world.aeron.add_exclusive_publication(channel, 10).unwrap();
    let publication = world.until("the publication", |world| world.aeron.exclusive_publication(id).unwrap());
    world.until("its subscriber", |_| publication.is_connected().then_some(()));
    publication
}

fn send(
    publication: &mut ExclusivePublication,
    control_session_id: i64,
    correlation_id: i64,
    body: RequestBody<'_>,
) {
    let mut buffer = [0; 512];
    let length = Request { control_session_id, correlation_id, body }.encode(&mut buffer).unwrap();
    publication.offer(&buffer[..length]).unwrap();
}

fn replay_by(token: i64, recording_id: i64) -> RequestBody<'static> {
    RequestBody::Replay(ReplayRequest {
        recording_id,
        position: 0,
        length: -1,
        limit_counter_id: None,
        stream_id: 79,
        file_io_max_length: -1,
        replay_token: token,
        channel: "aeron:ipc?control-mode=response",
    })
}

#[test]
fn a_token_lets_another_stream_ask_for_a_replay() {
    let mut world = World::new(|_| ());
    let (id, _) = record(&mut world);
    let session = world.client.control_session_id();
    let request = world.client.replay_token(&world.aeron, id).unwrap();
    let token = world.ok(request);
    assert_ne!(token, -1);
    let mut replay = subscription(&mut world, "aeron:ipc?control-mode=response", 79);
    let channel = format!("aeron:ipc?term-length=64k|response-correlation-id={}", replay.registration_id());
    let mut asking = publication(&mut world, &channel);
    // Requests with another recording or another token get no answer.
    send(&mut asking, session, 901, replay_by(token, id + 1));
    send(&mut asking, session, 902, replay_by(token ^ 1, id));
    send(&mut asking, session, 903, replay_by(token, id));
    match world.until("the answer", |world| world.client.poll_answer()) {
        ArchiveAnswer::Ok { correlation_id, .. } => assert_eq!(correlation_id, 903),
        other => panic!("{other:?}"),
    }
    let mut count = 0;
    world.until("the replay", |_| {
        replay.poll(10, &mut |_, _| count += 1);
        (count == 500).then_some(())
    });
}

#[test]
fn tokens_end_with_their_time_and_their_session() {
    let mut world = World::new(|context| context.connect_timeout_ns = 300_000_000);
    let (id, _) = record(&mut world);
    let session = world.client.control_session_id();
    let request = world.client.replay_token(&world.aeron, id).unwrap();
    let token = world.ok(request);
    let late = PausingClock.now().ns + 400_000_000;
    world.until("the token's end", |_| (PausingClock.now().ns > late).then_some(()));
    let mut asking = publication(&mut world, "aeron:ipc?term-length=64k");
    send(&mut asking, session, 901, replay_by(token, id));
    let request = world.client.start_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(request), 0);
    assert!(world.client.poll_answer().is_none());
}

#[test]
fn two_requests_are_heard_before_a_session_is_active() {
    let mut world = World::new(|_| ());
    let (id, _) = record(&mut world);
    let mut responses = subscription(&mut world, "aeron:ipc?session-id=7001", 21);
    let mut asking = publication(&mut world, "aeron:ipc?term-length=64k|session-id=7001");
    let connect = |version| RequestBody::Connect {
        response_stream_id: 21,
        version,
        response_channel: "aeron:ipc?session-id=7001",
        credentials: &[],
        client_info: "",
    };
    // A client of another major version gets an error until it times out, and never becomes active.
    send(&mut asking, -1, 1, connect(semantic_version(9, 0, 0)));
    let mut answers = Vec::new();
    let mut read = |world: &mut World, wanted: i64| {
        world.until("the answer", |_| {
            responses.poll(10, &mut |payload, _| {
                if let Ok(Some(Response::Control {
                    control_session_id,
                    correlation_id,
                    relevant_id,
                    code,
                    ..
                })) = Response::decode(payload)
                {
                    answers.push((correlation_id, (control_session_id, relevant_id, code as i32)));
                }
            });
            answers.iter().find(|(correlation_id, _)| *correlation_id == wanted).map(|(_, answer)| *answer)
        })
    };
    let (session, _, code) = read(&mut world, 1);
    assert_eq!(code, 1);
    send(&mut asking, session, 2, RequestBody::StartPosition { recording_id: id });
    send(&mut asking, session, 3, RequestBody::ReplayToken { recording_id: id });
    send(
        &mut asking,
        session,
        4,
        RequestBody::UpdateChannel { recording_id: id, channel: "aeron:ipc?alias=new" },
    );
    assert_eq!(read(&mut world, 3).2, 0);
    assert_eq!(read(&mut world, 4), (session, 0, 0));
    assert!(answers.iter().all(|(correlation_id, _)| *correlation_id != 2));
    let request = world.client.list_recording(&world.aeron, id).unwrap();
    match world.answer(request) {
        ArchiveAnswer::Descriptor { descriptor, .. } => {
            assert_eq!(descriptor.original_channel, "aeron:ipc?alias=new")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn counters_show_what_is_written_and_read() {
    let mut world = World::new(|context| context.file_clock = Some(FileClock::new(SystemClock)));
    let value = |world: &World, wanted: i32, text: &str| {
        let counters = world.aeron.counters();
        let id = counters.find(&mut |_, type_id, _| type_id == wanted).unwrap();
        assert_eq!(counters.label(id), format!("archive-{text} - archiveId=42"));
        counters.value(id)
    };
    let (id, position) = record(&mut world);
    assert_eq!(value(&world, 106, "recorder total write bytes"), position);
    let (longest, total) = (
        value(&world, 105, "recorder max write time in ns"),
        value(&world, 107, "recorder total write time in ns"),
    );
    assert!(longest > 0 && total >= longest, "{longest} {total}");
    assert_eq!(value(&world, 109, "replayer total read bytes"), 0);
    world.replay(id, 0, -1, 500);
    assert_eq!(value(&world, 109, "replayer total read bytes"), position);
    let (longest, total) = (
        value(&world, 108, "replayer max read time in ns"),
        value(&world, 110, "replayer total read time in ns"),
    );
    assert!(longest > 0 && total >= longest, "{longest} {total}");
}

#[test]
fn a_client_is_answered_over_a_response_channel() {
    for channel in ["aeron:ipc", "aeron:udp"] {
        let ports = harrier_platform::free_ports(2).unwrap();
        let [control, answers] = [ports[0], ports[1]].map(|port| format!("127.0.0.1:{port}"));
        let mut world = World::new(|context| {
            context.control_channel = Some(format!("aeron:udp?endpoint={control}"));
            context.authenticator = Authenticator::AllowAll;
        });
        let (request, response) = match channel {
            "aeron:ipc" => ("aeron:ipc".to_owned(), "aeron:ipc?control-mode=response".to_owned()),
            _ => (
                format!("aeron:udp?endpoint={control}"),
                format!("aeron:udp?control-mode=response|control={answers}"),
            ),
        };
        let mut context = ArchiveClientContext::udp(request, response);
        context.control_response_stream_id = 29;
        let mut client = ArchiveClient::new(context);
        world.until("the connection", |world| {
            client.poll(&mut world.aeron, &PausingClock.now()).unwrap();
            client.is_connected().then_some(())
        });
        let request = client.start_position(&world.aeron, 5).unwrap();
        world.until("the answer", |world| {
            client.poll(&mut world.aeron, &PausingClock.now()).unwrap();
            match client.poll_answer()? {
                ArchiveAnswer::Error { correlation_id, code: 5, .. } if correlation_id == request => Some(()),
                other => panic!("{other:?}"),
            }
        });
    }
}
