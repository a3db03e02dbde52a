//! Consensus module, service container and cluster client.
#![forbid(unsafe_code)]
