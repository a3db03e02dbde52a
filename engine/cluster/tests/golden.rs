//! Messages and files of the released cluster, read and written again.

use std::path::Path;

use harrier_cluster::codec::{
    BackupAnswer, BackupRequest, ConsensusMessage, Egress, Ingress, LogMessage, ModuleMessage,
    ServiceMessage, SnapshotMessage,
};
use harrier_cluster::recording_log::{EntryType, parse};

fn testdata(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

/// Messages of the collection: the hex line after each heading.
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
            100..=107 => SnapshotMessage::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            50..=57 | 75 | 76 => {
                let message = ConsensusMessage::decode(&bytes).unwrap().unwrap();
                assert!(message.is_plausible(), "{message:?}");
                message.encode(&mut buffer).unwrap()
            }
            77 | 79 | 81 => BackupRequest::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            78 | 80 => BackupAnswer::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
            40..=42 | 108 => ModuleMessage::decode(&bytes).unwrap().unwrap().encode(&mut buffer).unwrap(),
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
            let _snapshot = SnapshotMessage::decode(short);
            let _backup = (BackupRequest::decode(short), BackupAnswer::decode(short));
            let _members = ConsensusMessage::decode(short);
        }
    }
    assert!(known >= 39, "{known}");
}

fn golden_message(template_id: u16) -> Vec<u8> {
    let is_wanted = |bytes: &Vec<u8>| bytes.get(2..4) == Some(&template_id.to_le_bytes()[..]);
    messages().into_iter().find(is_wanted).unwrap()
}

#[test]
fn fields_that_older_members_do_not_send_read_as_absent() {
    // Version 7 has no flags in AppendPosition; version 14 has no commit position in NewLeadershipTerm.
    let mut append = golden_message(54);
    (append[6], append[28]) = (7, 0xFF);
    let Some(ConsensusMessage::AppendPosition(message)) = ConsensusMessage::decode(&append).unwrap() else {
        panic!("no AppendPosition");
    };
    assert_eq!(message.flags, 0);
    let mut term = golden_message(53);
    term[6] = 14;
    let Some(ConsensusMessage::NewLeadershipTerm(message)) = ConsensusMessage::decode(&term).unwrap() else {
        panic!("no NewLeadershipTerm");
    };
    assert_eq!(message.commit_position, -1);
}

#[test]
fn impossible_terms_and_positions_are_not_plausible() {
    for (template_id, offset) in
        [(50, 16), (51, 16), (52, 24), (53, 48), (54, 16), (55, 16), (56, 16), (75, 16)]
    {
        for bad in [-2_i64, 33, i64::MIN, i64::MAX] {
            let mut bytes = golden_message(template_id);
            bytes[offset..offset + 8].copy_from_slice(&bad.to_le_bytes());
            let message = ConsensusMessage::decode(&bytes).unwrap().unwrap();
            assert!(!message.is_plausible(), "{message:?}");
        }
    }
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

/// Flags and payloads of a recording's frames, all of which are in its first segment.
fn frames(recording: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = recording;
    let mut frames = Vec::new();
    while let Some(length) =
        rest.first_chunk().map(|word| i32::from_le_bytes(*word)).filter(|length| *length > 0)
    {
        frames.push((rest[5], &rest[32..length as usize]));
        rest = rest.get((length as usize).next_multiple_of(32)..).unwrap_or_default();
    }
    frames
}

fn text_of(message: &SnapshotMessage<'_>) -> String {
    match *message {
        SnapshotMessage::Marker(marker) => {
            let (id, version) = (marker.type_id, marker.app_version);
            format!(
                "{:?} {id} at {} in {:?} of {version}",
                marker.mark, marker.log_position, marker.time_unit
            )
        }
        SnapshotMessage::ClientSession { session_id, response_channel, principal, .. } => {
            format!("client {session_id} {response_channel} {}", String::from_utf8_lossy(principal))
        }
        SnapshotMessage::ClusterSession { session_id, opened_log_position, close_reason, .. } => {
            format!("session {session_id} opened {opened_log_position} {close_reason:?}")
        }
        SnapshotMessage::ConsensusModule { next_session_id, .. } => format!("next session {next_session_id}"),
        SnapshotMessage::Timer { correlation_id, deadline } => format!("timer {correlation_id} {deadline}"),
        SnapshotMessage::PendingMessageTracker {
            next_service_session_id,
            log_service_session_id,
            service_id,
            ..
        } => format!("tracker {service_id} {next_service_session_id:x} {log_service_session_id:x}"),
        _ => panic!("{message:?}"),
    }
}

/// Reads a snapshot as text, with the service's state after it; checks that its messages encode to the same bytes.
fn snapshot(name: &str) -> (Vec<String>, Vec<Vec<u8>>) {
    let recording = testdata(name);
    let (mut texts, mut state, mut is_over) = (Vec::new(), Vec::new(), false);
    for (flags, payload) in frames(&recording) {
        assert_eq!(flags, 0xC0, "{name}");
        if is_over {
            state.push(payload.to_vec());
            continue;
        }
        let message = SnapshotMessage::decode(payload).unwrap().unwrap();
        let mut buffer = [0; 512];
        let length = message.encode(&mut buffer).unwrap();
        assert_eq!(buffer[..length], *payload, "{name}");
        texts.push(text_of(&message));
        is_over = texts.last().is_some_and(|text| text.starts_with("End"));
    }
    (texts, state)
}

#[test]
fn snapshots_of_a_service_read_and_write_back() {
    let udp = "aeron:udp?rejoin=false|endpoint=127.0.0.1";
    let (texts, state) = snapshot("single/1-0.rec");
    assert_eq!(
        texts,
        [
            "Begin 2 at 4416 in Millis of 66051".to_owned(),
            format!("client 1 {udp}:27120 "),
            format!("client 2 {udp}:27121 P-me"),
            "client 4 aeron:ipc P-cred-D".to_owned(),
            "End 2 at 4416 in Millis of 66051".to_owned(),
        ]
    );
    assert_eq!(state, [7_i32.to_le_bytes().to_vec()]);
    let (texts, state) = snapshot("single/3-0.rec");
    assert_eq!(texts.len(), 2);
    assert_eq!(state.len(), 1);
    for service in [1, 2] {
        let (texts, _) = snapshot(&format!("multi/{service}-0.rec"));
        assert_eq!(texts[0], "Begin 2 at 1152 in Nanos of 1");
        assert_eq!(texts[1], format!("client 1 {udp}:27620 "));
        assert_eq!(texts[2], "End 2 at 1152 in Nanos of 1");
    }
}

#[test]
fn snapshots_of_the_module_read_and_write_back() {
    let (texts, state) = snapshot("single/2-0.rec");
    assert_eq!(
        texts,
        [
            "Begin 1 at 4416 in Millis of 66051",
            "next session 5",
            "session 1 opened 256 None",
            "session 2 opened 4096 None",
            "session 4 opened 4224 None",
            "timer 4711 1795319046322",
            "tracker 0 8000000000000002 8000000000000001",
            "End 1 at 4416 in Millis of 66051",
        ]
    );
    assert!(state.is_empty());
    let (texts, _) = snapshot("single/4-0.rec");
    assert_eq!(texts.first().unwrap(), "Begin 1 at 5504 in Millis of 66051");
    let (texts, _) = snapshot("multi/3-0.rec");
    let trackers: Vec<&String> = texts.iter().filter(|text| text.starts_with("tracker")).collect();
    assert_eq!(trackers.len(), 2);
    assert_eq!(trackers[1], "tracker 1 8100000000000002 8100000000000001");
}
