//! A service container under a consensus module that the test plays: every callback and every function of the cluster,
//! live, in replay and from snapshots; bad snapshots, services that fail, ends of all kinds.

mod callbacks;
mod cluster;
mod ending;
mod recorder;
mod rig;
mod snapshots;
