//! Messages and files of the released cluster, read and written again.

use std::path::Path;

use harrier_cluster::codec::{Egress, Ingress, LogMessage, ModuleMessage, ServiceMessage};
use harrier_cluster::recording_log::{EntryType, parse};

fn testdata(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

/// Messages of the collection: the line of hex after each heading.
fn messages() -> Vec<Vec<u8>> {
    let text = String::from_utf8(testdata("messages-by-template.txt")).unwrap();
    text.lines()
        .filter(|line| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(|line| {
            (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap()).collect()
        })
        .collect()
}

#[test]
fn every_message_of_ours_reads_and_writes_back() {
    let mut known = 0;
    for bytes in messages() {
        if bytes.len() < 8 {
            continue;
        }
        let template_id = u16::from_le_bytes([bytes[2], bytes[3]]);
        let mut buffer = vec![0; 4_096];
        let length = match template_id {
            3 | 4 | 5 | 8 | 26 => Ingress::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            1 | 2 | 6 | 7 | 27 => Egress::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            20..=24 => LogMessage::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            30..=34 => ServiceMessage::decode(&bytes).unwrap().map_or(0, |m| m.encode(&mut buffer).unwrap()),
            40 | 42 | 108 => ModuleMessage::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            _ => 0,
        };
        if length > 0 {
            known += 1;
            assert_eq!(buffer[..length], bytes, "template {template_id}");
        }
        for cut in 0..bytes.len() {
            let short = &bytes[..cut];
            let _client_side = (Ingress::decode(short), Egress::decode(short), LogMessage::decode(short));
            let _node_side = (ServiceMessage::decode(short), ModuleMessage::decode(short));
        }
    }
    assert!(known >= 18, "{known}");
}

#[test]
fn the_recording_log_reads_as_the_specification_says() {
    let entries = parse(Path::new("recording.log"), &testdata("recording.log")).unwrap();
    let facts: Vec<(i64, i64, i32, EntryType)> = entries
        .iter()
        .map(|entry| (entry.recording_id, entry.log_position, entry.service_id, entry.entry_type))
        .collect();
    assert_eq!(facts[0].3, EntryType::Term);
    assert_eq!(facts[1], (1, facts[1].1, 0, EntryType::Snapshot));
    assert_eq!(facts[2], (2, facts[1].1, -1, EntryType::Snapshot));
}
