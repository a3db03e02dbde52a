//! The header of a mark file in its two layouts (spec 04 §1.8, §6.3).

use harrier_protocol::sbe::{Decoder, MessageHeader};

/// Length of the header's block.
const BLOCK_LENGTH: usize = 128;
const TEMPLATE_ID: u16 = 200;
const SCHEMA_ID: u16 = 110;

/// Header of a component's mark file. Older files, and those of some other implementations, have no message header
/// before the fields and no strings after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkHeader {
    /// True for the layout without a message header.
    pub is_legacy: bool,
    /// Version; 0 while the component starts, -1 when its start failed.
    pub version: i32,
    /// Type of component: 1 consensus module, 2 container, 3 backup, 4 standby.
    pub component_type: i32,
    /// Time of the last activity, epoch ms; -1 after a clean shutdown.
    pub activity_timestamp_ms: i64,
    /// Start time, epoch ms.
    pub start_timestamp_ms: i64,
    /// Process id.
    pub pid: i64,
    /// Highest candidate term id in files of old versions; otherwise -1.
    pub candidate_term_id: i64,
    /// Control stream of the local archive.
    pub archive_stream_id: i32,
    /// Stream from the consensus module to the services.
    pub service_stream_id: i32,
    /// Stream from the services to the consensus module.
    pub module_stream_id: i32,
    /// Stream of ingress; -1 in a service's file.
    pub ingress_stream_id: i32,
    /// Id of the member; -1 in a service's file before it has joined a log.
    pub member_id: i32,
    /// Id of the service; -1 in the consensus module's file.
    pub service_id: i32,
    /// Length of the header, bytes.
    pub header_length: i32,
    /// Length of the error log, bytes.
    pub error_buffer_length: i32,
    /// Id of the cluster, which its counters carry.
    pub cluster_id: i32,
    /// Directory of the media driver.
    pub aeron_directory: String,
    /// Channel between consensus module and services.
    pub control_channel: String,
    /// Channel URI of ingress.
    pub ingress_channel: String,
    /// Name of the service.
    pub service_name: String,
    /// Class name of the authenticator.
    pub authenticator: String,
    /// Directory of the services' files.
    pub services_directory: String,
}

/// True when the file begins with a message header.
pub(super) fn has_message_header(first_words: [u16; 3]) -> bool {
    first_words[1] == TEMPLATE_ID && first_words[2] == SCHEMA_ID
}

impl MarkHeader {
    /// Parses the first bytes of a file; `None` when there are too few.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u16::from_le_bytes(*word));
        let is_legacy = !has_message_header([word(0)?, word(2)?, word(4)?]);
        let decoder = if is_legacy {
            let header = MessageHeader {
                block_length: BLOCK_LENGTH as u16,
                template_id: TEMPLATE_ID,
                schema_id: SCHEMA_ID,
                version: 0,
            };
            Decoder::body(header, bytes.get(..BLOCK_LENGTH)?)
        } else {
            Decoder::message(bytes)
        };
        let mut m = decoder.ok()?;
        let b = m.block();
        let mut header = Self {
            is_legacy,
            version: b.i32(0, 0),
            component_type: b.i32(4, 0),
            activity_timestamp_ms: b.i64(8, 0),
            start_timestamp_ms: b.i64(16, 0),
            pid: b.i64(24, 0),
            candidate_term_id: b.i64(32, 0),
            archive_stream_id: b.i32(40, 0),
            service_stream_id: b.i32(44, 0),
            module_stream_id: b.i32(48, 0),
            ingress_stream_id: b.i32(52, 0),
            member_id: b.i32(56, 0),
            service_id: b.i32(60, 0),
            header_length: b.i32(64, 0),
            error_buffer_length: b.i32(68, 0),
            cluster_id: b.i32(72, 0),
            aeron_directory: String::new(),
            control_channel: String::new(),
            ingress_channel: String::new(),
            service_name: String::new(),
            authenticator: String::new(),
            services_directory: String::new(),
        };
        if !is_legacy {
            for (what, since, text) in [
                ("aeron directory", 0, &mut header.aeron_directory),
                ("control channel", 0, &mut header.control_channel),
                ("ingress channel", 0, &mut header.ingress_channel),
                ("service name", 0, &mut header.service_name),
                ("authenticator", 0, &mut header.authenticator),
                ("services directory", 1, &mut header.services_directory),
            ] {
                *text = m.text(what, since).ok()?.to_owned();
            }
        }
        Some(header)
    }
}
