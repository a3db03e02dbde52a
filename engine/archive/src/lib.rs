//! Records and replays streams; archive client.
#![forbid(unsafe_code)]
