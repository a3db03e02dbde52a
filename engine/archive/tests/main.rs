//! Integration tests of the archive.
#![forbid(unsafe_code)]

mod damaged_catalog;
mod events;
mod flips;
mod full_disk;
mod golden;
mod impossible;
mod live_replays;
mod recording;
mod refusals;
mod removals;
mod replication;
mod requests;
mod rig;
mod seals;
mod sessions;
mod settings;
mod tool;
mod torn;
