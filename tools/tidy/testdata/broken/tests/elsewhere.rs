//! Dead, because `inner` has a folder of its own.
