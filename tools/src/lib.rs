//! The harrier command line.
#![forbid(unsafe_code)]
