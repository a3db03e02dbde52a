//! Settings of a service container (spec 04 §9.2).

use std::path::PathBuf;

use harrier_protocol::semantic_version;

/// All settings of a service container. Times are ns; names and defaults are those of spec 04 §9.2.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the settings of the table in spec 04 §9.2")]
pub struct ServiceContainerContext {
    pub aeron_directory: PathBuf,
    pub cluster_directory: PathBuf,
    pub cluster_id: i32,
    pub service_id: i32,
    pub service_name: String,
    pub control_channel: String,
    pub service_stream_id: i32,
    pub module_stream_id: i32,
    pub log_fragment_limit: usize,
    pub is_responder: bool,
    pub app_version: i32,
    /// How long the driver and the consensus module may be absent at start, ns.
    pub startup_timeout_ns: i64,
}

impl ServiceContainerContext {
    /// Default settings of a service.
    pub fn new(
        aeron_directory: impl Into<PathBuf>,
        cluster_directory: impl Into<PathBuf>,
        service_id: i32,
    ) -> Self {
        Self {
            aeron_directory: aeron_directory.into(),
            cluster_directory: cluster_directory.into(),
            cluster_id: 0,
            service_id,
            service_name: format!("clustered-service-0-{service_id}"),
            control_channel: "aeron:ipc?term-length=128k".into(),
            service_stream_id: 104,
            module_stream_id: 105,
            log_fragment_limit: 50,
            is_responder: true,
            app_version: semantic_version(0, 0, 1),
            startup_timeout_ns: 60_000_000_000,
        }
    }
}
