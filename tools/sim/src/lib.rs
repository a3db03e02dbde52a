//! Whole nodes under a deterministic simulator.
#![forbid(unsafe_code)]
