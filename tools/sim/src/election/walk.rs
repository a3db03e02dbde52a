//! Exhaustive walk.
#[derive(Debug)]
pub struct Bounds { pub max_states: usize, pub max_depth: u32 }
pub fn walk(_: &Bounds) {}
