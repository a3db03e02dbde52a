//! Counters of an archive and lookups of them (spec 03 §3.4, §6.4).

use harrier_protocol::counter_types::{Key, Label, type_id};
use harrier_ringbuf::counters::{CountersReader, MAX_KEY_LENGTH};

/// Maximum length of a source identity in a key, after the fixed fields.
const MAX_SOURCE_LENGTH: usize = MAX_KEY_LENGTH - 16 - 8;

/// Builds the key of a recording's position counter.
pub(crate) fn position_key(
    recording_id: i64,
    session_id: i32,
    source_identity: &str,
    archive_id: i64,
) -> Key {
    let source = &source_identity.as_bytes()[..source_identity.len().min(MAX_SOURCE_LENGTH)];
    Key::of_i64(recording_id)
        .with(&session_id.to_le_bytes())
        .with(&(source.len() as i32).to_le_bytes())
        .with(source)
        .with(&archive_id.to_le_bytes())
}

/// Builds the label of a recording's position counter.
pub(crate) fn position_label(
    recording_id: i64,
    session_id: i32,
    stream_id: i32,
    channel: &str,
    archive_id: i64,
) -> String {
    let head = format!("rec-pos: {recording_id} {session_id} {stream_id} ");
    let tail = format!(" - archiveId={archive_id}");
    let room = 380_usize.saturating_sub(head.len() + tail.len());
    let mut end = channel.len().min(room);
    while !channel.is_char_boundary(end) {
        end -= 1;
    }
    format!("{head}{}{tail}", &channel[..end])
}

/// Builds the label of an archive counter.
pub(crate) fn label(text: &str, archive_id: i64) -> Label {
    Label::of(format_args!("{text} - archiveId={archive_id}"))
}

/// Decodes the key of a recording's position counter.
fn decode(key: &[u8]) -> Option<(i64, i32, i64)> {
    let recording_id = i64::from_le_bytes(*key.first_chunk()?);
    let session_id = i32::from_le_bytes(*key.get(8..)?.first_chunk()?);
    let source_length = usize::try_from(i32::from_le_bytes(*key.get(12..)?.first_chunk()?)).ok()?;
    let archive_id = i64::from_le_bytes(*key.get(16 + source_length..)?.first_chunk()?);
    Some((recording_id, session_id, archive_id))
}

fn matches_archive(archive_id: i64, wanted: Option<i64>) -> bool {
    wanted.is_none_or(|id| id == -1 || id == archive_id)
}

/// Finds the position counter of a session's recording, with the recording id.
pub fn find_by_session(
    counters: &CountersReader,
    session_id: i32,
    archive_id: Option<i64>,
) -> Option<(i32, i64)> {
    let mut recording = None;
    let id = counters.find(&mut |_, type_id, key| {
        type_id == type_id::RECORDING_POSITION
            && decode(key).is_some_and(|(recording_id, session, archive)| {
                let is_match = session == session_id && matches_archive(archive, archive_id);
                if is_match {
                    recording = Some(recording_id);
                }
                is_match
            })
    })?;
    Some((id, recording?))
}

/// Finds the position counter of a recording.
pub fn find_by_recording(
    counters: &CountersReader,
    recording_id: i64,
    archive_id: Option<i64>,
) -> Option<i32> {
    counters.find(&mut |_, type_id, key| {
        type_id == type_id::RECORDING_POSITION
            && decode(key).is_some_and(|(recording, _, archive)| {
                recording == recording_id && matches_archive(archive, archive_id)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_that_of_the_peer() {
        let key = position_key(0, 0x1122_3344, "aeron:ipc", 42);
        let mut expected = vec![0; 8];
        expected.extend_from_slice(&[0x44, 0x33, 0x22, 0x11, 9, 0, 0, 0]);
        expected.extend_from_slice(b"aeron:ipc");
        expected.extend_from_slice(&[0x2A, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(key.as_bytes(), expected);
        assert_eq!(decode(key.as_bytes()), Some((0, 0x1122_3344, 42)));
    }

    #[test]
    fn long_names_are_cut() {
        let key = position_key(1, 2, &"x".repeat(300), 3);
        assert_eq!(decode(key.as_bytes()), Some((1, 2, 3)));
        assert_eq!(position_label(1, 2, 3, &"y".repeat(400), 4).len(), 380);
    }
}
