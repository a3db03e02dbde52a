//! Integration tests of the archive.
#![forbid(unsafe_code)]

mod golden;
mod recording;
mod replication;
mod requests;
mod rig;
mod seals;
mod tool;
mod torn;
