//! Commands and events are compared with records that the released client and driver wrote (spec 01 §9.2–9.4).

use harrier_protocol::command::{Command, CommandError, Request};
use harrier_protocol::event::{Event, PublicationReady};
use proptest::prelude::*;

const COMMANDS: &[u8] = include_bytes!("../testdata/commands_all.bin");
const EVENTS: &[u8] = include_bytes!("../testdata/events_all.bin");
const LIVE_COMMANDS: [&[u8]; 3] = [
    include_bytes!("../testdata/ring_add_publication_records.bin"),
    include_bytes!("../testdata/ring_add_counter_records.bin"),
    include_bytes!("../testdata/ring_remove_publication_records.bin"),
];
const LIVE_EVENTS: [&[u8]; 3] = [
    include_bytes!("../testdata/clients_image_available_records.bin"),
    include_bytes!("../testdata/clients_final_records.bin"),
    include_bytes!("../testdata/c_clients_records.bin"),
];

/// Returns type and body of each record of a ring or broadcast buffer.
fn records(bytes: &[u8]) -> Vec<(i32, &[u8])> {
    let word = |offset: usize| i32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    let mut records = Vec::new();
    let mut offset = 0;
    while offset + 8 <= bytes.len() && word(offset) > 0 {
        let length = word(offset) as usize;
        records.push((word(offset + 4), &bytes[offset + 8..offset + length]));
        offset += length.next_multiple_of(8);
    }
    records
}

fn encode(command: &Command<'_>) -> Vec<u8> {
    let mut buffer = vec![0xEE; 2048];
    let length = command.encode(&mut buffer).unwrap();
    assert_eq!(length, command.encoded_length());
    buffer.truncate(length);
    buffer
}

fn encode_event(event: &Event<'_>) -> Vec<u8> {
    let mut buffer = vec![0xEE; 2048];
    let length = event.encode(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn every_command_is_decoded_and_encoded_byte_for_byte() {
    let expected = [
        (100, Request::AddPublication { stream_id: 10, channel: "aeron:ipc" }),
        (101, Request::AddExclusivePublication { stream_id: 10, channel: "aeron:ipc" }),
        (102, Request::RemovePublication { registration_id: 100, flags: 1 }),
        (
            103,
            Request::AddSubscription { registration_correlation_id: -1, stream_id: 10, channel: "aeron:ipc" },
        ),
        (104, Request::RemoveSubscription { registration_id: 103 }),
        (105, Request::AddDestination { registration_id: 100, channel: "aeron:udp?endpoint=127.0.0.1:9" }),
        (106, Request::RemoveDestination { registration_id: 100, channel: "aeron:udp?endpoint=127.0.0.1:9" }),
        (107, Request::RemoveDestinationById { registration_id: 100, destination_registration_id: 105 }),
        (108, Request::AddRcvDestination { registration_id: 103, channel: "aeron:udp?endpoint=127.0.0.1:9" }),
        (
            109,
            Request::RemoveRcvDestination { registration_id: 103, channel: "aeron:udp?endpoint=127.0.0.1:9" },
        ),
        (110, Request::AddCounter { type_id: 1001, key: &[1, 2, 3, 4, 5, 6], label: "lbl" }),
        (111, Request::AddCounter { type_id: 1001, key: &[], label: "lbl" }),
        (112, Request::RemoveCounter { registration_id: 110 }),
        (113, Request::RejectImage { image_correlation_id: 77, position: 4096, reason: "bad data" }),
        (-1, Request::TerminateDriver { token: b"tok" }),
        (-1, Request::ClientClose),
        (
            114,
            Request::AddStaticCounter {
                registration_id: 555,
                type_id: 1002,
                key: &[9, 8, 7, 6, 5],
                label: "lbl",
            },
        ),
        (115, Request::GetNextAvailableSessionId { stream_id: 10 }),
        (0, Request::ClientKeepalive),
    ];
    let golden = records(COMMANDS);
    assert_eq!(golden.len(), expected.len());
    for ((type_id, body), (correlation_id, request)) in golden.into_iter().zip(expected) {
        let command = Command { client_id: 17, correlation_id, request };
        assert_eq!(Command::decode(type_id, body).unwrap(), command);
        assert_eq!(command.type_id(), type_id);
        let ours = encode(&command);
        // Java clients claim four bytes more for counters; a driver accepts both (spec 01 §4.3).
        let spare = match request {
            Request::AddCounter { .. } | Request::AddStaticCounter { .. } => 4,
            _ => 0,
        };
        assert_eq!(ours, body[..body.len() - spare], "{command:?}");
    }
}

#[test]
fn commands_of_live_clients_are_decoded_and_encoded() {
    for (type_id, body) in LIVE_COMMANDS.into_iter().flat_map(records) {
        let command = Command::decode(type_id, body).unwrap();
        assert!(body.starts_with(&encode(&command)), "{command:?}");
    }
}

#[test]
fn old_and_odd_commands() {
    let remove = Command {
        client_id: 1,
        correlation_id: 2,
        request: Request::RemovePublication { registration_id: 3, flags: 0 },
    };
    assert_eq!(Command::decode(2, &encode(&remove)[..24]).unwrap(), remove);
    let reject = Request::RejectImage { image_correlation_id: 1, position: 0, reason: "" };
    assert_eq!(encode(&Command { client_id: 1, correlation_id: 2, request: reject }).len(), 40);

    let error = Command::decode(0x13, &encode(&remove)).unwrap_err();
    assert_eq!((error.code().value(), error.correlation_id()), (6, 2));
    let error = Command::decode(1, &[0; 10]).unwrap_err();
    assert_eq!((error.code().value(), error.correlation_id()), (7, 0));
    assert!(matches!(remove.encode(&mut [0; 31]), Err(CommandError::BufferTooSmall { required: 32 })));
}

#[test]
fn every_event_is_decoded_and_encoded_byte_for_byte() {
    let expected = [
        Event::Error { correlation_id: 100, error_code: 1, message: "bad!x" },
        Event::AvailableImage {
            correlation_id: 101,
            session_id: -5,
            stream_id: 10,
            subscription_registration_id: 103,
            subscriber_position_counter_id: 50,
            log_file_name: "/x/images/101.logbuffer",
            source_identity: "127.0.0.1:40123",
        },
        Event::PublicationReady(PublicationReady {
            correlation_id: 100,
            registration_id: 100,
            session_id: 1001,
            stream_id: 10,
            publisher_limit_counter_id: 47,
            channel_status_counter_id: -1,
            log_file_name: "/x/publications/100.logbuffer",
        }),
        Event::OperationSuccess { correlation_id: 104 },
        Event::UnavailableImage {
            correlation_id: 101,
            subscription_registration_id: 103,
            stream_id: 10,
            channel: "aeron:ipc",
        },
        Event::SubscriptionReady { correlation_id: 103, channel_status_counter_id: 48 },
        Event::CounterReady { correlation_id: 110, counter_id: 60 },
        Event::ClientTimeout { client_id: 17 },
        Event::StaticCounter { correlation_id: 113, counter_id: 61 },
        Event::PublicationError {
            registration_id: 100,
            destination_registration_id: -1,
            session_id: 1001,
            stream_id: 10,
            receiver_id: 0x12_3456_7890,
            group_tag: -1,
            source: "127.0.0.1:40123".parse().unwrap(),
            error_code: 13,
            message: "no",
        },
        Event::NextAvailableSessionId { correlation_id: 114, session_id: -77 },
    ];
    let golden = records(EVENTS);
    assert_eq!(golden.len(), expected.len());
    for ((type_id, body), event) in golden.into_iter().zip(expected) {
        assert_eq!(Event::decode(type_id, body).unwrap(), event);
        assert_eq!(event.type_id(), type_id);
        assert_eq!(encode_event(&event), body, "{event:?}");
    }
}

#[test]
fn events_of_live_drivers_are_decoded_and_encoded() {
    let mut count = 0;
    for (type_id, body) in LIVE_EVENTS.into_iter().flat_map(records) {
        let event = Event::decode(type_id, body).unwrap();
        let ours = encode_event(&event);
        // The filler between the two texts of an image is stale bytes (spec 01 §1).
        let filler = match event {
            Event::AvailableImage { log_file_name, .. } => {
                let end = 32 + log_file_name.len();
                end..end.next_multiple_of(4)
            }
            _ => 0..0,
        };
        assert_eq!(ours.len(), body.len());
        for index in (0..body.len()).filter(|index| !filler.contains(index)) {
            assert_eq!(ours[index], body[index], "byte {index} of {event:?}");
        }
        count += 1;
    }
    assert!(count > 60, "{count} records");
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,40}"
}

proptest! {
    #[test]
    fn arbitrary_records_never_panic(type_id in 0..0x20_i32, body in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = Command::decode(type_id, &body);
        let _ = Event::decode(0x0F00 + type_id, &body);
    }

    #[test]
    fn commands_come_back(ids in any::<[i64; 4]>(), small in any::<[i32; 2]>(), key in proptest::collection::vec(any::<u8>(), 0..112), text in text()) {
        let channel = text.as_str();
        for request in [
            Request::AddPublication { stream_id: small[0], channel },
            Request::AddSubscription { registration_correlation_id: ids[2], stream_id: small[0], channel },
            Request::AddStaticCounter { registration_id: ids[2], type_id: small[1], key: &key, label: channel },
            Request::AddCounter { type_id: small[1], key: &key, label: channel },
            Request::RemoveRcvDestination { registration_id: ids[2], channel },
            Request::RejectImage { image_correlation_id: ids[2], position: ids[3], reason: channel },
        ] {
            let command = Command { client_id: ids[0], correlation_id: ids[1], request };
            let bytes = encode(&command);
            prop_assert_eq!(Command::decode(command.type_id(), &bytes).unwrap(), command);
        }
    }

    #[test]
    fn events_come_back(ids in any::<[i64; 4]>(), small in any::<[i32; 3]>(), address in any::<[u8; 16]>(), port in any::<u16>(), text in text()) {
        let source = (std::net::Ipv6Addr::from(address), port).into();
        for event in [
            Event::Error { correlation_id: ids[0], error_code: small[0], message: &text },
            Event::AvailableImage {
                correlation_id: ids[0], session_id: small[0], stream_id: small[1], subscription_registration_id: ids[1],
                subscriber_position_counter_id: small[2], log_file_name: &text, source_identity: "x",
            },
            Event::PublicationError {
                registration_id: ids[0], destination_registration_id: ids[1], session_id: small[0], stream_id: small[1],
                receiver_id: ids[2], group_tag: ids[3], source, error_code: small[2], message: &text,
            },
        ] {
            let bytes = encode_event(&event);
            prop_assert_eq!(Event::decode(event.type_id(), &bytes).unwrap(), event);
        }
    }
}
