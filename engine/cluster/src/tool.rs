//! Operator tools for a member (spec 04 §6.6): its files at any time, queries and commands while it runs.
//!
//! [`ClusterMark`] and the functions of this module read and change files. [`MembersQuery`], [`ModuleCounters`],
//! [`PlanQuery`] and [`SnapshotQuery`] query a running member and are polled.

mod control;
mod files;
mod members;
mod queries;
mod rebuild;

pub use control::{ControlError, ModuleCounters, ToggleCommand, backup_query_deadline};
pub use files::{
    ClusterFilesError, ClusterMark, Seeded, invalidate_latest_snapshot, marks, module_mark,
    recording_log_entries, seed_recording_log_from_snapshot, sort_recording_log,
};
pub use members::{ClusterMember, ClusterMembers, MembersQuery};
pub use queries::{ArchiveLink, PlanQuery, QueryError, SnapshotQuery};
pub use rebuild::{Rebuilt, rebuild_recording_log};
