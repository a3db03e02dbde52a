//! Integration tests of the shared-memory algorithms.

mod golden;
mod threads;
