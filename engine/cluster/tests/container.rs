//! A service container under a simulated consensus module: every callback and every function of the cluster, live, in
//! replay and from snapshots; invalid snapshots, failing services, all kinds of termination.

mod callbacks;
mod cluster;
mod ending;
mod recorder;
mod rig;
mod snapshots;
