//! Messages of leases, the lease table under any of them, and snapshots of it (docs/protocol/leases.md).
#![no_main]

use harrier_cluster::codec::TimeUnit;
use harrier_lease::codec::{Envelope, Event, Process, Record, Request};
use harrier_lease::table::{LeaseTable, TIMER_BASE};
use harrier_lease::{LeaseService, LeaseSettings};
use libfuzzer_sys::fuzz_target;

fn settings() -> LeaseSettings {
    LeaseSettings { max_leases: 5, max_waiters: 4, max_pins: 6, ..LeaseSettings::default() }
}

/// Bytes as messages, each behind its length.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        messages.push(message);
        bytes = rest;
    }
    messages
}

fn state(table: &LeaseTable) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let written = table.write_state(&mut |record| -> Result<(), Box<dyn std::error::Error>> {
        records.push(record.to_vec());
        Ok(())
    });
    assert!(written.is_ok());
    records
}

/// Effect of the first byte of a message before the message itself: time passes, a term begins, a timer fires, or a
/// name is claimed.
fn disturb(table: &mut LeaseTable, position: i64, message: &[u8]) {
    let Some((kind, rest)) = message.split_first() else { return };
    let value = rest.first_chunk().map_or(0, |bytes| i64::from(i32::from_le_bytes(*bytes)));
    match kind % 5 {
        0 => table.advance(table.time().saturating_add(value)),
        1 => table.on_new_term(value, TimeUnit::Millis),
        2 => drop(table.on_timer(TIMER_BASE + value % 8)),
        3 => {
            let name = ["a", "b", "c", "d", "e", "f"][(value & 0xFFFF) as usize % 6];
            let request = Request::Claim {
                correlation_id: 1,
                duration_ns: value << 20,
                application: name,
                unit: "u/0",
                process: Process { id: (value & 1) as u64, started_ms: value, name: "p" },
            };
            table.apply(position, &request);
        }
        _ => {
            let name = ["a", "b", "c", "d", "e", "f"][(value & 0xFFFF) as usize % 6];
            table.apply(position, &Request::Pin { correlation_id: 1, application: name, entity: "m" });
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    drop(format!("{:?}", Request::decode(bytes)));
    drop(format!("{:?}", Envelope::decode(bytes)));
    drop(format!("{:?}", Record::decode(bytes)));
    match Event::decode(bytes) {
        Ok(Event::Leases { entries, .. }) => drop(entries.count()),
        Ok(Event::Pins { entries, .. }) => drop(entries.count()),
        event => drop(format!("{event:?}")),
    }
    let messages = messages(bytes);
    if let Ok(service) = LeaseService::from_state(settings(), messages.iter().copied()) {
        // A message that was accepted is encoded to the same bytes.
        let mut records = messages.iter();
        let written = service.write_state(&mut |record| -> Result<(), Box<dyn std::error::Error>> {
            assert_eq!(records.next().copied(), Some(record));
            Ok(())
        });
        assert!(written.is_ok() && records.next().is_none());
    }
    let Ok(mut table) = LeaseTable::new(settings()) else { return };
    table.on_new_term(1, TimeUnit::Millis);
    let mut page = [0; 4_096];
    for (index, message) in messages.iter().enumerate() {
        let position = 32 * (index as i64 + 1);
        disturb(&mut table, position, message);
        if let Ok(request) = Request::decode(message) {
            table.apply(position, &request);
        }
        assert!(table.write_leases(0, 1, &mut page) > 0 && table.write_pins(0, 1, &mut page) > 0);
    }
    let records = state(&table);
    let again = LeaseTable::from_state(settings(), records.iter().map(Vec::as_slice));
    assert_eq!(again.map(|again| state(&again)).map_err(|error| error.to_string()), Ok(records));
});
