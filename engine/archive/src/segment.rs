//! Segment files: names and arithmetic (spec 03 §3.5).

use std::path::{Path, PathBuf};

use crate::seal::SEAL_SUFFIX;

/// Suffix of segment files.
pub const SUFFIX: &str = ".rec";

/// Position of the first byte of the segment that holds `position`.
pub fn base_position(start_position: i64, position: i64, term_length: i32, segment_length: i32) -> i64 {
    let first = start_position - (start_position & (i64::from(term_length) - 1));
    let length = i64::from(segment_length);
    first + (position - first) / length * length
}

/// Name of a segment file.
pub fn file_name(recording_id: i64, base_position: i64) -> String {
    format!("{recording_id}-{base_position}{SUFFIX}")
}

/// Path of a segment file.
pub fn path(directory: &Path, recording_id: i64, base_position: i64) -> PathBuf {
    directory.join(file_name(recording_id, base_position))
}

/// Path of the seal of a segment file.
pub(crate) fn seal_path(directory: &Path, recording_id: i64, base_position: i64) -> PathBuf {
    directory.join(format!("{recording_id}-{base_position}{SEAL_SUFFIX}"))
}

/// Recording id and base position in the file name of a seal; `None` for other files.
pub(crate) fn parse_seal(name: &str) -> Option<(i64, i64)> {
    let (id, base) = name.strip_suffix(SEAL_SUFFIX)?.split_once('-')?;
    Some((id.parse().ok()?, base.parse().ok().filter(|base| *base >= 0)?))
}

/// Kind of a file that belongs to a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A segment, or a segment that an older version of Aeron has renamed for its deletion (spec 03 §3.8).
    Segment,
    /// The seal of a segment.
    Seal,
}

/// Suffix of a segment whose deletion was interrupted.
const DELETED_SUFFIX: &str = ".rec.del";

/// Kind of a recording's file and the position in its name; the position is `None` when the name holds none. Returns
/// `None` for files that do not belong to the recording.
pub(crate) fn classify(name: &str, recording_id: i64) -> Option<(FileKind, Option<i64>)> {
    let rest = name.strip_prefix(&recording_id.to_string())?.strip_prefix('-')?;
    let (kind, position) = match rest.strip_suffix(SUFFIX).or_else(|| rest.strip_suffix(DELETED_SUFFIX)) {
        Some(position) => (FileKind::Segment, position),
        None => (FileKind::Seal, rest.strip_suffix(SEAL_SUFFIX)?),
    };
    Some((kind, position.parse().ok().filter(|position| *position >= 0)))
}

/// Base position in the file name of a segment; `None` for other files.
pub fn parse(name: &str, recording_id: i64) -> Option<i64> {
    let rest = name.strip_suffix(SUFFIX)?.strip_prefix(&recording_id.to_string())?.strip_prefix('-')?;
    rest.parse().ok().filter(|position| *position >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_counted_from_the_first_term() {
        let base = |position| base_position(65_536 + 96, position, 65_536, 131_072);
        assert_eq!(base(65_536 + 96), 65_536);
        assert_eq!(base(65_536 + 131_071), 65_536);
        assert_eq!(base(65_536 + 131_072), 196_608);
    }

    #[test]
    fn names_parse_back() {
        assert_eq!(file_name(7, 131_072), "7-131072.rec");
        assert_eq!(parse("7-131072.rec", 7), Some(131_072));
        for other in ["17-0.rec", "7-.rec", "7-x.rec", "7-0.rec.del", "7--1.rec"] {
            assert_eq!(parse(other, 7), None, "{other}");
        }
        assert_eq!(seal_path(Path::new("/a"), 7, 131_072), Path::new("/a/7-131072.seal"));
        assert_eq!(parse_seal("7-131072.seal"), Some((7, 131_072)));
        assert_eq!([parse_seal("7-131072.rec"), parse_seal("7.seal"), parse_seal("7--1.seal")], [None; 3]);
    }

    #[test]
    fn files_of_a_recording_are_known_by_their_names() {
        use FileKind::{Seal, Segment};
        for (name, expected) in [
            ("7-131072.rec", Some((Segment, Some(131_072)))),
            ("7-33.rec", Some((Segment, Some(33)))),
            ("7-0.rec.del", Some((Segment, Some(0)))),
            ("7-x.rec", Some((Segment, None))),
            ("7-0.seal", Some((Seal, Some(0)))),
            ("17-0.rec", None),
            ("7-0.txt", None),
        ] {
            assert_eq!(classify(name, 7), expected, "{name}");
        }
    }
}
