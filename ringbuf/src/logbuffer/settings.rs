//! Settings in the metadata of a log (spec 01 §2.2).

use std::sync::atomic::Ordering;

use super::{
    CORRELATION_ID, DEFAULT_HEADER, INITIAL_TERM_ID, LogBuffers, MTU_LENGTH, PAGE_SIZE, TERM_LENGTH,
};
use crate::Region;
use crate::frame::{
    FLAGS_OFFSET, FLAGS_UNFRAGMENTED, FrameHeader, SESSION_ID_OFFSET, STREAM_ID_OFFSET, TERM_ID_OFFSET,
    TERM_OFFSET_OFFSET, TYPE_DATA, TYPE_OFFSET,
};
use crate::position::{HEADER_LENGTH, TERM_MIN_LENGTH};

const DEFAULT_FRAME_HEADER_LENGTH: usize = 268;
const PUBLICATION_WINDOW_LENGTH: usize = 284;
const RECEIVER_WINDOW_LENGTH: usize = 288;
const SOCKET_SNDBUF_LENGTH: usize = 292;
const OS_DEFAULT_SOCKET_SNDBUF_LENGTH: usize = 296;
const OS_MAX_SOCKET_SNDBUF_LENGTH: usize = 300;
const SOCKET_RCVBUF_LENGTH: usize = 304;
const OS_DEFAULT_SOCKET_RCVBUF_LENGTH: usize = 308;
const OS_MAX_SOCKET_RCVBUF_LENGTH: usize = 312;
const MAX_RESEND: usize = 316;
const ENTITY_TAG: usize = 448;
const RESPONSE_CORRELATION_ID: usize = 456;
const LINGER_TIMEOUT_NS: usize = 464;
const UNTETHERED_WINDOW_LIMIT_TIMEOUT_NS: usize = 472;
const UNTETHERED_RESTING_TIMEOUT_NS: usize = 480;
const GROUP: usize = 488;
const IS_RESPONSE: usize = 489;
const REJOIN: usize = 490;
const RELIABLE: usize = 491;
const SPARSE: usize = 492;
const SIGNAL_EOS: usize = 493;
const SPIES_SIMULATE_CONNECTION: usize = 494;
const TETHER: usize = 495;
const LOG_TYPE: usize = 497;
/// Not aligned to 8: copied, never accessed as a word.
const UNTETHERED_LINGER_TIMEOUT_NS: usize = 500;

/// Kind of resource that a log belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LogType {
    /// A publication with many writers.
    Concurrent = 0,
    /// A publication with one writer.
    Exclusive = 1,
    /// The image of a network stream.
    Image = 2,
}

/// Settings that a driver writes into the metadata before it announces a log (spec 01 §2.2).
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Registration id of the publication, or correlation id of the image.
    pub correlation_id: i64,
    /// Id of the first term.
    pub initial_term_id: i32,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// MTU, bytes.
    pub mtu_length: usize,
    /// Length of a term, bytes.
    pub term_length: usize,
    /// Page size to which the log file is aligned, bytes.
    pub page_size: usize,
    /// Window of the publication, bytes.
    pub publication_window_length: i32,
    /// Window of the receiver, bytes.
    pub receiver_window_length: i32,
    /// Length of the socket's send buffer, bytes; 0 for the system's default.
    pub socket_sndbuf_length: i32,
    /// The system's default length of a send buffer, bytes.
    pub os_default_socket_sndbuf_length: i32,
    /// The system's greatest length of a send buffer, bytes.
    pub os_max_socket_sndbuf_length: i32,
    /// Length of the socket's receive buffer, bytes; 0 for the system's default.
    pub socket_rcvbuf_length: i32,
    /// The system's default length of a receive buffer, bytes.
    pub os_default_socket_rcvbuf_length: i32,
    /// The system's greatest length of a receive buffer, bytes.
    pub os_max_socket_rcvbuf_length: i32,
    /// Most retransmissions at a time to a group of receivers.
    pub max_resend: i32,
    /// Entity tag of the publication; -1 for none.
    pub entity_tag: i64,
    /// Correlation id of the request image or of the response subscription; -1 for none.
    pub response_correlation_id: i64,
    /// Time for which the drained publication lingers, ns.
    pub linger_timeout_ns: i64,
    /// Time for which an untethered subscriber may be behind the window limit, ns.
    pub untethered_window_limit_timeout_ns: i64,
    /// Time after which a resting untethered subscriber joins again, ns.
    pub untethered_resting_timeout_ns: i64,
    /// Time for which an untethered subscriber lingers, ns.
    pub untethered_linger_timeout_ns: i64,
    /// The image has group semantics: several receivers may send NAKs.
    pub group: bool,
    /// The log belongs to a response channel.
    pub is_response: bool,
    /// Images that went away may come back.
    pub rejoin: bool,
    /// Gaps are repaired; otherwise they are filled with padding.
    pub reliable: bool,
    /// The log file has holes until they are written.
    pub sparse: bool,
    /// Receivers are told the end of the stream.
    pub signal_eos: bool,
    /// Spies make a publication connected.
    pub spies_simulate_connection: bool,
    /// Subscribers hold the publication back.
    pub tether: bool,
    /// Kind of resource that the log belongs to.
    pub log_type: LogType,
    /// Term in which a publication starts.
    pub start_term_id: i32,
    /// Offset in that term.
    pub start_term_offset: i32,
}

/// Returns the settings of the smallest log of a concurrent publication, with the defaults of a driver and without
/// ids.
impl Default for LogSettings {
    fn default() -> Self {
        Self {
            correlation_id: 0,
            initial_term_id: 0,
            session_id: 0,
            stream_id: 0,
            mtu_length: 1_408,
            term_length: TERM_MIN_LENGTH,
            page_size: 4_096,
            publication_window_length: 0,
            receiver_window_length: 0,
            socket_sndbuf_length: 0,
            os_default_socket_sndbuf_length: 0,
            os_max_socket_sndbuf_length: 0,
            socket_rcvbuf_length: 0,
            os_default_socket_rcvbuf_length: 0,
            os_max_socket_rcvbuf_length: 0,
            max_resend: 16,
            entity_tag: -1,
            response_correlation_id: -1,
            linger_timeout_ns: 5_000_000_000,
            untethered_window_limit_timeout_ns: 5_000_000_000,
            untethered_resting_timeout_ns: 10_000_000_000,
            untethered_linger_timeout_ns: 5_000_000_000,
            group: false,
            is_response: false,
            rejoin: true,
            reliable: true,
            sparse: true,
            signal_eos: true,
            spies_simulate_connection: false,
            tether: true,
            log_type: LogType::Concurrent,
            start_term_id: 0,
            start_term_offset: 0,
        }
    }
}

impl<R: Region> LogBuffers<R> {
    /// Writes all settings and the default header.
    pub(super) fn write_settings(&self, s: &LogSettings) {
        let int = |offset, value: i32| self.metadata.store_i32(offset, value, Ordering::Relaxed);
        int(INITIAL_TERM_ID, s.initial_term_id);
        int(DEFAULT_FRAME_HEADER_LENGTH, HEADER_LENGTH as i32);
        int(MTU_LENGTH, s.mtu_length as i32);
        int(TERM_LENGTH, s.term_length as i32);
        int(PAGE_SIZE, s.page_size as i32);
        int(PUBLICATION_WINDOW_LENGTH, s.publication_window_length);
        int(RECEIVER_WINDOW_LENGTH, s.receiver_window_length);
        int(SOCKET_SNDBUF_LENGTH, s.socket_sndbuf_length);
        int(OS_DEFAULT_SOCKET_SNDBUF_LENGTH, s.os_default_socket_sndbuf_length);
        int(OS_MAX_SOCKET_SNDBUF_LENGTH, s.os_max_socket_sndbuf_length);
        int(SOCKET_RCVBUF_LENGTH, s.socket_rcvbuf_length);
        int(OS_DEFAULT_SOCKET_RCVBUF_LENGTH, s.os_default_socket_rcvbuf_length);
        int(OS_MAX_SOCKET_RCVBUF_LENGTH, s.os_max_socket_rcvbuf_length);
        int(MAX_RESEND, s.max_resend);
        let long = |offset, value: i64| self.metadata.copy_in(offset, &value.to_le_bytes());
        long(CORRELATION_ID, s.correlation_id);
        long(ENTITY_TAG, s.entity_tag);
        long(RESPONSE_CORRELATION_ID, s.response_correlation_id);
        long(LINGER_TIMEOUT_NS, s.linger_timeout_ns);
        long(UNTETHERED_WINDOW_LIMIT_TIMEOUT_NS, s.untethered_window_limit_timeout_ns);
        long(UNTETHERED_RESTING_TIMEOUT_NS, s.untethered_resting_timeout_ns);
        long(UNTETHERED_LINGER_TIMEOUT_NS, s.untethered_linger_timeout_ns);
        let flags = [
            (GROUP, s.group),
            (IS_RESPONSE, s.is_response),
            (REJOIN, s.rejoin),
            (RELIABLE, s.reliable),
            (SPARSE, s.sparse),
            (SIGNAL_EOS, s.signal_eos),
            (SPIES_SIMULATE_CONNECTION, s.spies_simulate_connection),
            (TETHER, s.tether),
        ];
        for (offset, flag) in flags {
            self.metadata.copy_in(offset, &[u8::from(flag)]);
        }
        self.metadata.copy_in(LOG_TYPE, &[s.log_type as u8]);
        let mut header = FrameHeader([0; HEADER_LENGTH]);
        header.0[FLAGS_OFFSET] = FLAGS_UNFRAGMENTED;
        header.0[TYPE_OFFSET] = TYPE_DATA as u8;
        if s.log_type != LogType::Image {
            header.set_int(TERM_OFFSET_OFFSET, s.start_term_offset);
        }
        header.set_int(SESSION_ID_OFFSET, s.session_id);
        header.set_int(STREAM_ID_OFFSET, s.stream_id);
        header.set_int(TERM_ID_OFFSET, s.initial_term_id);
        self.metadata.copy_in(DEFAULT_HEADER, &header.0);
    }

    /// Returns all settings that the metadata contain, for tools and tests.
    pub fn settings(&self) -> LogSettings {
        let header = FrameHeader(self.default_header());
        let flag = |offset| self.byte(offset) == 1;
        LogSettings {
            correlation_id: self.correlation_id(),
            initial_term_id: self.initial_term_id,
            session_id: header.session_id(),
            stream_id: header.stream_id(),
            mtu_length: self.mtu_length,
            term_length: self.term_length,
            page_size: self.page_size(),
            publication_window_length: self.int(PUBLICATION_WINDOW_LENGTH),
            receiver_window_length: self.int(RECEIVER_WINDOW_LENGTH),
            socket_sndbuf_length: self.int(SOCKET_SNDBUF_LENGTH),
            os_default_socket_sndbuf_length: self.int(OS_DEFAULT_SOCKET_SNDBUF_LENGTH),
            os_max_socket_sndbuf_length: self.int(OS_MAX_SOCKET_SNDBUF_LENGTH),
            socket_rcvbuf_length: self.int(SOCKET_RCVBUF_LENGTH),
            os_default_socket_rcvbuf_length: self.int(OS_DEFAULT_SOCKET_RCVBUF_LENGTH),
            os_max_socket_rcvbuf_length: self.int(OS_MAX_SOCKET_RCVBUF_LENGTH),
            max_resend: self.int(MAX_RESEND),
            entity_tag: self.long(ENTITY_TAG),
            response_correlation_id: self.long(RESPONSE_CORRELATION_ID),
            linger_timeout_ns: self.long(LINGER_TIMEOUT_NS),
            untethered_window_limit_timeout_ns: self.long(UNTETHERED_WINDOW_LIMIT_TIMEOUT_NS),
            untethered_resting_timeout_ns: self.long(UNTETHERED_RESTING_TIMEOUT_NS),
            untethered_linger_timeout_ns: self.long(UNTETHERED_LINGER_TIMEOUT_NS),
            group: flag(GROUP),
            is_response: flag(IS_RESPONSE),
            rejoin: flag(REJOIN),
            reliable: flag(RELIABLE),
            sparse: flag(SPARSE),
            signal_eos: flag(SIGNAL_EOS),
            spies_simulate_connection: flag(SPIES_SIMULATE_CONNECTION),
            tether: flag(TETHER),
            log_type: match self.byte(LOG_TYPE) {
                1 => LogType::Exclusive,
                2 => LogType::Image,
                _ => LogType::Concurrent,
            },
            start_term_id: self.initial_term_id,
            start_term_offset: header.term_offset(),
        }
    }
}
