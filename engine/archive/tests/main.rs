//! Integration tests of the archive.
#![forbid(unsafe_code)]

mod golden;
mod recording;
mod replication;
mod requests;
mod rig;
mod tool;
mod torn;
