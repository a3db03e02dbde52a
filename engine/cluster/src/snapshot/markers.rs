//! Validation of a snapshot's markers (spec 04 §6.5, §4.13).

use harrier_protocol::semantic_version_major;

use super::SnapshotError;
use crate::codec::{SnapshotMark, SnapshotMarker, TimeUnit};

/// Requirements of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotExpectation {
    /// Type of the state: one of [`snapshot_type`](crate::codec::snapshot_type).
    pub type_id: i64,
    /// The reader's application version; the snapshot's must have the same major part.
    pub app_version: i32,
    /// Unit of the cluster's clock; `None` accepts any.
    pub time_unit: Option<TimeUnit>,
}

/// Checks the markers of one snapshot in order.
#[derive(Debug, Clone)]
pub struct MarkerCheck {
    expectation: SnapshotExpectation,
    begin: Option<SnapshotMarker>,
    is_complete: bool,
}

impl MarkerCheck {
    /// Creates a check for a new snapshot.
    pub fn new(expectation: SnapshotExpectation) -> Self {
        Self { expectation, begin: None, is_complete: false }
    }

    /// Checks the next marker; `position` is the position after it.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn on_marker(&mut self, marker: &SnapshotMarker, position: i64) -> Result<(), SnapshotError> {
        let wanted = self.expectation;
        if marker.type_id != wanted.type_id {
            return Err(SnapshotError::Type { expected: wanted.type_id, actual: marker.type_id });
        }
        match marker.mark {
            SnapshotMark::Begin if self.begin.is_some() => Err(SnapshotError::NestedBegin(position)),
            SnapshotMark::Begin => {
                let (own, snapshot) = (wanted.app_version, marker.app_version);
                if semantic_version_major(own) != semantic_version_major(snapshot) {
                    return Err(SnapshotError::Version { own, snapshot });
                }
                match wanted.time_unit {
                    Some(expected) if expected != marker.time_unit => {
                        Err(SnapshotError::TimeUnit { expected, actual: marker.time_unit })
                    }
                    _ => {
                        self.begin = Some(*marker);
                        Ok(())
                    }
                }
            }
            SnapshotMark::Section => self.on_state(position),
            SnapshotMark::End if self.begin.is_none() => Err(SnapshotError::EndWithoutBegin(position)),
            SnapshotMark::End => {
                self.is_complete = true;
                Ok(())
            }
        }
    }

    /// Checks any other message.
    ///
    /// # Errors
    /// The snapshot has not begun.
    pub fn on_state(&self, position: i64) -> Result<(), SnapshotError> {
        if self.begin.is_some() { Ok(()) } else { Err(SnapshotError::NotBegun(position)) }
    }

    /// The BEGIN marker, once received.
    pub fn begin(&self) -> Option<&SnapshotMarker> {
        self.begin.as_ref()
    }

    /// True once END was received.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::snapshot_type;
    use harrier_protocol::semantic_version;

    fn check(time_unit: Option<TimeUnit>) -> MarkerCheck {
        let app_version = semantic_version(1, 2, 3);
        MarkerCheck::new(SnapshotExpectation { type_id: snapshot_type::SERVICE, app_version, time_unit })
    }

    fn marker(mark: SnapshotMark) -> SnapshotMarker {
        SnapshotMarker {
            type_id: snapshot_type::SERVICE,
            log_position: 96,
            leadership_term_id: 0,
            index: 0,
            mark,
            time_unit: TimeUnit::Nanos,
            app_version: semantic_version(1, 9, 0),
        }
    }

    #[test]
    fn a_whole_snapshot_passes() {
        let mut check = check(Some(TimeUnit::Nanos));
        for (mark, is_complete) in
            [(SnapshotMark::Begin, false), (SnapshotMark::Section, false), (SnapshotMark::End, true)]
        {
            check.on_marker(&marker(mark), 64).unwrap();
            check.on_state(96).unwrap();
            assert_eq!(check.is_complete(), is_complete);
        }
        assert_eq!(check.begin().unwrap().time_unit, TimeUnit::Nanos);
    }

    #[test]
    fn markers_out_of_order_are_refused() {
        let mut check = check(None);
        assert!(matches!(check.on_state(32), Err(SnapshotError::NotBegun(32))));
        let end = check.on_marker(&marker(SnapshotMark::End), 64);
        assert!(matches!(end, Err(SnapshotError::EndWithoutBegin(64))));
        check.on_marker(&marker(SnapshotMark::Begin), 96).unwrap();
        let nested = check.on_marker(&marker(SnapshotMark::Begin), 128);
        assert!(matches!(nested, Err(SnapshotError::NestedBegin(128))));
    }

    #[test]
    fn snapshots_of_others_are_refused() {
        let other = SnapshotMarker { type_id: snapshot_type::MODULE, ..marker(SnapshotMark::Begin) };
        let error = check(None).on_marker(&other, 64).unwrap_err();
        assert!(matches!(error, SnapshotError::Type { expected: 2, actual: 1 }));
        let old = SnapshotMarker { app_version: semantic_version(2, 0, 0), ..marker(SnapshotMark::Begin) };
        let error = check(None).on_marker(&old, 64).unwrap_err();
        assert_eq!(error.to_string(), "incompatible version: 1.2.3 snapshot=2.0.0");
        let error = check(Some(TimeUnit::Millis)).on_marker(&marker(SnapshotMark::Begin), 64).unwrap_err();
        assert!(matches!(error, SnapshotError::TimeUnit { actual: TimeUnit::Nanos, .. }));
    }
}
