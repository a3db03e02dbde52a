//! The archive: records streams into files and replays them, in the same formats as Aeron's archive.
//!
//! [`Archive`] is the server, an agent beside a media driver; [`client::ArchiveClient`] is its client.
//! [`catalog::Catalog::read`] reads a catalog without either; [`tool`] changes the files of a stopped archive.
#![forbid(unsafe_code)]

mod archive;
mod auth;
pub mod catalog;
mod channel;
mod checksum;
pub mod client;
pub mod codec;
mod context;
mod counters;
mod descriptor;
mod io;
mod log_allocator;
mod mark_file;
mod owner;
mod recorder;
mod recovery;
mod replay;
mod replication;
mod seal;
pub mod segment;
mod session;
mod task;
pub mod tool;

pub use archive::{Archive, ArchiveError};
pub use auth::{Authenticator, AuthorisationService};
pub use checksum::Checksum;
pub use codec::SourceLocation;
pub use context::{ArchiveContext, FileClock, InvalidSetting, SyncLevel, TornTail};
pub use descriptor::RecordingDescriptor;
pub use log_allocator::LogAllocator;
pub use mark_file::{ArchiveMark, MARK_FILE, MarkFileError, PreviousError};
pub use owner::{OWNER_OFFSET, is_owned, write_owner};
pub use recovery::{RecoveryError, cut_torn_tail, find_stop_position};
