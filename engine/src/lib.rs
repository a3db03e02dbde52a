//! The embeddable engine: driver, archive, consensus and services in one builder.
//!
//! ```no_run
//! use harrier::services::EchoService;
//! use harrier::{Node, NodeContext};
//!
//! let members = "0,localhost:20110,localhost:20111,localhost:20112,localhost:0,localhost:8010";
//! let context = NodeContext::new("/var/lib/harrier", "/dev/shm/aeron-harrier", 0, members);
//! let node = Node::launch(context, vec![Box::new(|| Box::new(EchoService))]).unwrap();
//! while !node.is_ready() {
//!     std::thread::yield_now();
//! }
//! # node.stop().unwrap();
//! ```
#![forbid(unsafe_code)]

mod archive_client;
mod archive_node;
mod cluster_client;
pub mod compose;
mod fused;
mod lasting;
pub mod leases;
mod node;
mod service_node;
pub mod services;

pub use archive_client::{ArchiveSignal, BlockingArchiveClient, BlockingArchiveError};
pub use archive_node::{ArchiveNode, ArchiveNodeContext};
pub use cluster_client::{BlockingClientError, BlockingClusterClient};
pub use harrier_cluster::control::ClusterCommand;
pub use harrier_driver::configuration::Properties;
pub use service_node::{ServiceNode, ServiceNodeContext};

pub use node::{Layout, Node, NodeContext, NodeError, ServiceFactory, default_idle};

pub use harrier_archive as archive;
pub use harrier_client as client;
pub use harrier_cluster as cluster;
pub use harrier_driver as driver;
pub use harrier_lease as lease;
pub use harrier_platform as platform;
pub use harrier_protocol as protocol;
pub use harrier_ringbuf as ringbuf;

/// Compiles the examples of the README with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeExamples;

/// Compiles the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/embedding.md")]
struct GuideExamples;

/// Compiles the examples of the guide to recordings.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/recording.md")]
struct RecordingGuideExamples;

/// Compiles the examples of the guide to streams.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/streams.md")]
struct StreamGuideExamples;

/// Compiles the examples of the guide to leases.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/leases.md")]
struct LeaseGuideExamples;

/// Compiles the examples of the guide to services on released members.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/services-on-aeron.md")]
struct ServicesOnAeronExamples;
