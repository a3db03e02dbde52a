//! Directories of the released cluster: its recordings and its recording.log.

use std::path::Path;

use harrier_archive::RecordingDescriptor;
use harrier_archive::catalog::{Catalog, CatalogWrite};

pub fn testdata(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

/// A recording: its bytes, where it stops, its stream.
pub struct Recording<'a> {
    pub bytes: &'a [u8],
    pub stop_position: i64,
    pub stream_id: i32,
}

const SEGMENT_LENGTH: usize = 64 << 10;

fn apply(file: &mut Vec<u8>, write: &CatalogWrite) {
    let start = write.offset as usize;
    let end = start + write.bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(&write.bytes);
}

/// Creates the archive and cluster directories of a node that starts from these files.
pub fn lay_out(directory: &Path, recordings: &[Recording<'_>], recording_log: &[u8]) {
    let (archive, cluster) = (directory.join("archive"), directory.join("cluster"));
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::create_dir_all(&cluster).unwrap();
    let (mut catalog, header) = Catalog::create(4_096, None);
    let mut file = Vec::new();
    apply(&mut file, &header);
    for (id, recording) in recordings.iter().enumerate() {
        let int = |at: usize| i32::from_le_bytes(*recording.bytes[at..].first_chunk().unwrap());
        let descriptor = RecordingDescriptor {
            control_session_id: 0,
            correlation_id: 0,
            recording_id: id as i64,
            start_timestamp: 1,
            stop_timestamp: 2,
            start_position: 0,
            stop_position: recording.stop_position,
            initial_term_id: int(20),
            segment_file_length: SEGMENT_LENGTH as i32,
            term_buffer_length: 64 << 10,
            mtu_length: 1_408,
            session_id: int(12),
            stream_id: recording.stream_id,
            stripped_channel: "aeron:ipc".into(),
            original_channel: "aeron:ipc".into(),
            source_identity: "aeron:ipc".into(),
        };
        for write in catalog.add(descriptor).unwrap().1 {
            apply(&mut file, &write);
        }
        let mut segment = recording.bytes[..recording.stop_position as usize].to_vec();
        segment.resize(SEGMENT_LENGTH, 0);
        std::fs::write(archive.join(format!("{id}-0.rec")), segment).unwrap();
    }
    file.resize(file.len().max(catalog.capacity()), 0);
    std::fs::write(archive.join("archive.catalog"), file).unwrap();
    std::fs::write(cluster.join("recording.log"), recording_log).unwrap();
}
