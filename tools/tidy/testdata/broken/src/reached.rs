//! Reached.
