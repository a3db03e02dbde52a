use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(encode: impl FnOnce(&mut [u8]) -> Result<usize, SbeError>) -> Vec<u8> {
    let mut buffer = vec![0xAA; 4_096];
    let length = encode(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn bytes_are_those_of_the_tables() {
    let (application, unit) = ("db", "db/0");
    let process = Process { id: 9, started_ms: 3, name: "p" };
    let claim = Request::Claim { correlation_id: 7, duration_ns: 1 << 32, application, unit, process };
    let expected = "20000100 4c530200 0700000000000000 0000000001000000 0900000000000000 0300000000000000 \
               02000000 6462 04000000 64622f30 01000000 70";
    assert_eq!(hex(&encoded(|buffer| claim.encode(buffer))), expected.replace(' ', ""));
    let list = Request::List { correlation_id: -1, cursor: 5 };
    assert_eq!(
        hex(&encoded(|buffer| list.encode(buffer))),
        "0c0009004c530200 ffffffffffffffff 05000000".replace(' ', "")
    );
    let envelope = Envelope { correlation_id: 1, token: 96, application: "db", payload: b"xyz" };
    let bytes = encoded(|buffer| envelope.encode(buffer));
    let expected = "100010004c530200 0100000000000000 6000000000000000 02000000 6462 03000000 78797a";
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(bytes.len(), Envelope::encoded_length("db", 3));
    let (holder, claimed) = (process, 8);
    let base = Answer::new(7, AnswerCode::UnitHeld);
    let answer = Answer { token: 64, expiry: 5, detail: "no", holder, claimed, ..base };
    let expected = "3c0020004c530200 0700000000000000 4000000000000000 0500000000000000 0000000000000000 0f000000 \
               0900000000000000 0300000000000000 0800000000000000 02000000 6e6f 01000000 70";
    assert_eq!(hex(&encoded(|buffer| Event::Answer(answer).encode(buffer))), expected.replace(' ', ""));
    let waiter = Record::Waiter { session_id: 3, correlation_id: 9, lease_slot: 1, index: 2 };
    assert_eq!(
        hex(&encoded(|buffer| waiter.encode(buffer))),
        "180034004c530200 0300000000000000 0900000000000000 01000000 02000000".replace(' ', "")
    );
}

#[test]
fn pages_hold_what_fits() {
    let entry = LeaseEntry { token: 32, expiry: 10, duration: 5, pins: 1, application: "db", unit: "db/0" };
    let mut buffer = [0; 160];
    let mut page = PageWriter::leases(&mut buffer, 9, 77, 0);
    let count = (0..10).take_while(|_| page.lease(&entry)).count();
    let length = page.finish(40);
    // The page has 8 + 24 + 4 bytes, and each entry 42.
    assert_eq!((count, length), (2, 36 + 2 * 42));
    let Ok(Event::Leases { correlation_id: 9, time: 77, next_cursor: 40, time_unit: 0, entries }) =
        Event::decode(&buffer[..length])
    else {
        panic!("{:?}", Event::decode(&buffer[..length]));
    };
    assert_eq!(entries.collect::<Vec<_>>(), [entry; 2]);

    let pin = PinEntry { application: "db", entity: "backup" };
    let mut page = PageWriter::pins(&mut buffer, 4);
    assert!(page.pin(&pin));
    let length = page.finish(-1);
    let Ok(Event::Pins { correlation_id: 4, next_cursor: -1, entries }) = Event::decode(&buffer[..length])
    else {
        panic!("{:?}", Event::decode(&buffer[..length]));
    };
    assert_eq!(entries.collect::<Vec<_>>(), [pin]);
}

#[test]
fn what_breaks_the_layout_is_refused() {
    let request = Request::Check { correlation_id: 1, application: "a", unit: "a/0" };
    let good = encoded(|buffer| request.encode(buffer));
    for length in 0..good.len() {
        assert!(Request::decode(&good[..length]).is_err(), "{length}");
    }
    let with = |at: usize, value: u16| {
        let mut bytes = good.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    assert_eq!(Request::decode(&with(2, 99)), Err(CodecError::Template(99)));
    assert_eq!(Request::decode(&with(2, 32)), Err(CodecError::Template(32)));
    assert!(matches!(Request::decode(&with(4, 111)), Err(CodecError::Sbe(SbeError::Schema { .. }))));
    assert_eq!(Request::decode(&with(6, 0)), Err(CodecError::Version { expected: 2, actual: 0 }));
    let required = 32;
    let actual = 8;
    assert_eq!(Request::decode(&with(2, 1)), Err(CodecError::Block { template_id: 1, required, actual }));
    let mut block = good.clone();
    block[0] = 9;
    assert!(matches!(Request::decode(&block), Err(CodecError::Block { required: 8, actual: 9, .. })));
    let mut long = good.clone();
    long.push(0);
    assert_eq!(Request::decode(&long), Err(CodecError::Trailing(1)));
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() = 0xFF;
    assert_eq!(Request::decode(&bytes), Err(SbeError::Text("unit").into()));

    let answer = Answer::new(1, AnswerCode::Held);
    let mut bytes = encoded(|buffer| Event::Answer(answer).encode(buffer));
    bytes[40] = 16;
    assert!(matches!(Event::decode(&bytes), Err(CodecError::Sbe(SbeError::Enumeration { value: 16, .. }))));
    // The entries of this group have no room for their fields.
    let mut page = [0; 128];
    let writer = PageWriter::leases(&mut page, 9, 77, 0);
    let length = writer.finish(0);
    page[length - 4..length].copy_from_slice(&[8, 0, 1, 0]);
    assert!(matches!(Event::decode(&page[..length + 40]), Err(CodecError::Block { .. })));
}

#[test]
fn longer_blocks_of_newer_versions_are_read_and_newer_records_refused() {
    let request = Request::CancelWait { correlation_id: 3 };
    let mut bytes = encoded(|buffer| request.encode(buffer));
    bytes.extend([1, 2, 3, 4]);
    bytes[0] = 12;
    bytes[6] = 3;
    bytes.extend([9; 5]);
    assert_eq!(Request::decode(&bytes), Ok(request));
    let mut bytes = encoded(|buffer| Record::End { records: 4 }.encode(buffer));
    bytes[6] = 3;
    assert_eq!(Record::decode(&bytes), Err(CodecError::Version { expected: 2, actual: 3 }));
}

fn name() -> impl Strategy<Value = String> {
    "[a-zé/]{0,20}"
}

fn request() -> impl Strategy<Value = (u8, i64, u64, String, String, i32)> {
    (0_u8..10, any::<i64>(), any::<u64>(), name(), name(), any::<i32>())
}

fn request_of(fields: &(u8, i64, u64, String, String, i32)) -> Request<'_> {
    let (kind, correlation_id, token, application, second, cursor) =
        (fields.0, fields.1, fields.2, fields.3.as_str(), fields.4.as_str(), fields.5);
    match kind {
        0 => Request::Claim {
            correlation_id,
            duration_ns: token as i64,
            application,
            unit: second,
            process: Process { id: token, started_ms: correlation_id, name: application },
        },
        1 => Request::Release { correlation_id, token, application, unit: second },
        2 => Request::Check { correlation_id, application, unit: second },
        3 => Request::Wait { correlation_id, token, application },
        4 => Request::CancelWait { correlation_id },
        5 => Request::Pin { correlation_id, application, entity: second },
        6 => Request::Unpin { correlation_id, application, entity: second },
        7 => Request::Pinned { correlation_id, cursor },
        8 => Request::List { correlation_id, cursor },
        _ => Request::EndSession { correlation_id, session_id: token as i64 },
    }
}

proptest! {
    #[test]
    fn requests_come_back(fields in request()) {
        let request = request_of(&fields);
        let bytes = encoded(|buffer| request.encode(buffer));
        prop_assert_eq!(Request::decode(&bytes), Ok(request));
        prop_assert!(is_ours(&bytes));
    }

    #[test]
    fn answers_come_back(fields in request(), code in 0_usize..16) {
        let codes = [
            AnswerCode::Granted, AnswerCode::Denied, AnswerCode::Held, AnswerCode::NotHeld,
            AnswerCode::Released, AnswerCode::Stale, AnswerCode::Waiting, AnswerCode::Pinned,
            AnswerCode::Unpinned, AnswerCode::TooManyLeases, AnswerCode::TooManyWaiters,
            AnswerCode::TooManyPins, AnswerCode::Invalid,
            AnswerCode::SessionEnded, AnswerCode::SessionEnding, AnswerCode::UnitHeld,
        ];
        let answer = Answer {
            correlation_id: fields.1, token: fields.2, expiry: fields.1 / 3, limit: fields.1 / 5,
            code: codes[code], detail: "detail", claimed: fields.1 / 7,
            holder: Process { id: fields.2, started_ms: fields.1, name: &fields.4 },
        };
        let bytes = encoded(|buffer| Event::Answer(answer).encode(buffer));
        let Ok(Event::Answer(read)) = Event::decode(&bytes) else { panic!() };
        prop_assert_eq!(read, answer);
        let stale = Event::FenceStale {
            correlation_id: fields.1, token: fields.2, current_token: fields.2 ^ 1, log_position: 96, application: &fields.3,
        };
        let bytes = encoded(|buffer| stale.encode(buffer));
        prop_assert_eq!(format!("{:?}", Event::decode(&bytes).unwrap()), format!("{stale:?}"));
    }

    #[test]
    fn records_come_back(fields in request()) {
        let slot = fields.5;
        for record in [
            Record::Head(Head { time: fields.1, time_unit: 0, leases: slot, pins: 1, timers: 2, waiters: 3 }),
            Record::Lease {
                token: fields.2, expiry: fields.1, duration: 4, slot, application: &fields.3, unit: &fields.4, claimed: fields.1,
                process: Process { id: fields.2, started_ms: 5, name: &fields.3 },
            },
            Record::Pin { index: 3, lease_slot: slot, entity: &fields.3 },
            Record::Timer { deadline: fields.1, slot },
            Record::Waiter { session_id: fields.1, correlation_id: 8, lease_slot: slot, index: 1 },
            Record::End { records: fields.1 },
        ] {
            let bytes = encoded(|buffer| record.encode(buffer));
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn no_bytes_bring_a_reader_down(bytes in proptest::collection::vec(any::<u8>(), 0..200), template in 0_u16..60) {
        let mut framed = header(template, 16).encode().to_vec();
        framed.extend(&bytes);
        for bytes in [&bytes, &framed] {
            let _any = Request::decode(bytes);
            let _any = Envelope::decode(bytes);
            let _any = Record::decode(bytes);
            match Event::decode(bytes) {
                Ok(Event::Leases { entries, .. }) => drop(entries.count()),
                Ok(Event::Pins { entries, .. }) => drop(entries.count()),
                _ => {}
            }
        }
    }
}

/// Returns the messages of a file, each of which follows its length.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (message, rest) = rest.split_at(usize::from(*length));
        messages.push(message);
        bytes = rest;
    }
    messages
}

#[test]
fn files_of_version_1_are_read_and_written_as_version_2() {
    let requests = messages(include_bytes!("../../testdata/requests-v1.bin"));
    assert_eq!(requests.len(), 9);
    for message in requests {
        let request = Request::decode(message).unwrap();
        let again = encoded(|buffer| request.encode(buffer));
        assert_eq!(Request::decode(&again), Ok(request));
        if let Request::Claim { process, .. } = request {
            assert_eq!(process, Process::UNNAMED);
        } else {
            // Only claims have changed since then.
            let mut expected = message.to_vec();
            expected[6] = 2;
            assert_eq!(again, expected);
        }
    }
    let records = messages(include_bytes!("../../testdata/snapshot-v1.bin"));
    assert_eq!(records.len(), 8);
    let service = crate::LeaseService::from_state(crate::LeaseSettings::default(), records.clone()).unwrap();
    let mut written = Vec::new();
    service
        .write_state(&mut |record| -> Result<(), SbeError> {
            written.push(record.to_vec());
            Ok(())
        })
        .unwrap();
    let decoded = |records: &[&[u8]]| -> String {
        format!("{:?}", records.iter().map(|record| Record::decode(record)).collect::<Vec<_>>())
    };
    let written: Vec<&[u8]> = written.iter().map(Vec::as_slice).collect();
    assert_eq!(decoded(&written), decoded(&records));
    assert_eq!(service.table().holder("db"), Some(("db/0", 4_128)));
}
