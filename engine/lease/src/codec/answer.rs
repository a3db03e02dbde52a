//! Answers and events of the service.

use harrier_protocol::sbe::{Encoder, SbeError};

use super::{
    CodecError, LeaseEntries, PinEntries, Process, SCHEMA_VERSION, close, enumeration, header, open,
};

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerCode {
    /// The unit leads.
    Granted = 0,
    /// Another unit leads.
    Denied,
    /// The unit holds the lease.
    Held,
    /// The unit does not hold the lease.
    NotHeld,
    /// The lease is released, or nobody held it.
    Released,
    /// The tenure of the token is over.
    Stale,
    /// The session waits for the end of a tenure.
    Waiting,
    /// The entity pins the application.
    Pinned,
    /// The entity does not pin the application.
    Unpinned,
    /// The table of leases is full.
    TooManyLeases,
    /// The table of waiters is full.
    TooManyWaiters,
    /// The table of pins is full.
    TooManyPins,
    /// A name, duration or cursor breaks a rule, which the detail names.
    Invalid,
    /// The other session has ended.
    SessionEnded,
    /// The other session is ending: ask again.
    SessionEnding,
    /// Another process holds the lease for this unit.
    UnitHeld,
}

const CODES: [AnswerCode; 16] = [
    AnswerCode::Granted,
    AnswerCode::Denied,
    AnswerCode::Held,
    AnswerCode::NotHeld,
    AnswerCode::Released,
    AnswerCode::Stale,
    AnswerCode::Waiting,
    AnswerCode::Pinned,
    AnswerCode::Unpinned,
    AnswerCode::TooManyLeases,
    AnswerCode::TooManyWaiters,
    AnswerCode::TooManyPins,
    AnswerCode::Invalid,
    AnswerCode::SessionEnded,
    AnswerCode::SessionEnding,
    AnswerCode::UnitHeld,
];

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Correlation id of the request; the answer repeats it.
    pub correlation_id: i64,
    /// Fencing token of the tenure; 0 for none.
    pub token: u64,
    /// Cluster time at which the lease ends.
    pub expiry: i64,
    /// Limit that was reached.
    pub limit: i64,
    /// Outcome of the request.
    pub code: AnswerCode,
    /// Detail of the code, for people; empty without one.
    pub detail: &'a str,
    /// Process that holds the unit, for [`AnswerCode::UnitHeld`].
    pub holder: Process<'a>,
    /// Cluster time of the last claim of that process, for [`AnswerCode::UnitHeld`].
    pub claimed: i64,
}

impl<'a> Answer<'a> {
    /// Returns an answer that consists of its code.
    pub fn new(correlation_id: i64, code: AnswerCode) -> Self {
        let (token, expiry, limit, claimed) = (0, 0, 0, 0);
        Answer { correlation_id, token, expiry, limit, code, detail: "", holder: Process::UNNAMED, claimed }
    }
}

/// Message of the service to a client.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The answer to a request, template 32.
    Answer(Answer<'a>),
    /// A tenure that was waited for is over, template 33.
    Released {
        /// Correlation id of the wait.
        correlation_id: i64,
        /// Token of the tenure that is over.
        token: u64,
    },
    /// A fenced message was not delivered, template 34.
    FenceStale {
        /// Correlation id of the fenced message.
        correlation_id: i64,
        /// Token of the fenced message.
        token: u64,
        /// Token of the present tenure; 0 for none.
        current_token: u64,
        /// Log position of the fenced message, bytes.
        log_position: i64,
        /// Name of the application.
        application: &'a str,
    },
    /// A page of leases, template 35.
    Leases {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Cluster time of the page.
        time: i64,
        /// Cursor of the next page; -1 after the last.
        next_cursor: i32,
        /// Unit of cluster time, as in [`harrier_cluster::codec::TimeUnit`].
        time_unit: i32,
        /// The leases of the page.
        entries: LeaseEntries<'a>,
    },
    /// A page of pins, template 36.
    Pins {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Cursor of the next page; -1 after the last.
        next_cursor: i32,
        /// The pins of the page.
        entries: PinEntries<'a>,
    },
}

fn block_length(template_id: u16, version: u16) -> Option<u16> {
    match template_id {
        32 if version >= Process::SINCE => Some(60),
        32 => Some(36),
        33 => Some(16),
        34 => Some(32),
        35 => Some(24),
        36 => Some(12),
        _ => None,
    }
}

impl<'a> Event<'a> {
    /// Decodes a message of the service.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(message: &'a [u8]) -> Result<Self, CodecError> {
        let (template_id, mut m) = open(message, block_length)?;
        let b = m.block();
        let correlation_id = b.i64(0, 0);
        let event = match template_id {
            32 => Self::Answer(Answer {
                correlation_id,
                token: b.i64(8, 0) as u64,
                expiry: b.i64(16, 0),
                limit: b.i64(24, 0),
                code: enumeration(&CODES, b.i32(32, 0), "answer code")?,
                detail: m.text("detail", 0)?,
                holder: Process::read(&b, 36, m.text("holder", Process::SINCE)?),
                claimed: if b.has(52, 8, Process::SINCE) { b.i64(52, 0) } else { 0 },
            }),
            33 => Self::Released { correlation_id, token: b.i64(8, 0) as u64 },
            34 => Self::FenceStale {
                correlation_id,
                token: b.i64(8, 0) as u64,
                current_token: b.i64(16, 0) as u64,
                log_position: b.i64(24, 0),
                application: m.text("application", 0)?,
            },
            35 => Self::Leases {
                correlation_id,
                time: b.i64(8, 0),
                next_cursor: b.i32(16, 0),
                time_unit: b.i32(20, 0),
                entries: LeaseEntries::read(&mut m)?,
            },
            _ => Self::Pins { correlation_id, next_cursor: b.i32(8, 0), entries: PinEntries::read(&mut m)? },
        };
        close(&m)?;
        Ok(event)
    }

    /// Correlation id of the request, wait or fenced message that the event answers.
    pub fn correlation_id(&self) -> i64 {
        match *self {
            Self::Answer(Answer { correlation_id, .. })
            | Self::Released { correlation_id, .. }
            | Self::FenceStale { correlation_id, .. }
            | Self::Leases { correlation_id, .. }
            | Self::Pins { correlation_id, .. } => correlation_id,
        }
    }

    /// Writes an answer or event; returns its length. Pages are written by [`PageWriter`](super::PageWriter).
    ///
    /// # Errors
    /// A buffer that is too small; a page.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Answer(answer) => {
                Encoder::new(buffer, header(32, block_length(32, SCHEMA_VERSION).unwrap_or_default()))
                    .i64(0, answer.correlation_id)
                    .i64(8, answer.token as i64)
                    .i64(16, answer.expiry)
                    .i64(24, answer.limit)
                    .i32(32, answer.code as i32)
                    .i64(36, answer.holder.id as i64)
                    .i64(44, answer.holder.started_ms)
                    .i64(52, answer.claimed)
                    .text(answer.detail)
                    .bytes(answer.holder.name.as_bytes())
                    .finish()
            }
            Self::Released { correlation_id, token } => {
                Encoder::new(buffer, header(33, 16)).i64(0, correlation_id).i64(8, token as i64).finish()
            }
            Self::FenceStale { correlation_id, token, current_token, log_position, application } => {
                Encoder::new(buffer, header(34, 32))
                    .i64(0, correlation_id)
                    .i64(8, token as i64)
                    .i64(16, current_token as i64)
                    .i64(24, log_position)
                    .bytes(application.as_bytes())
                    .finish()
            }
            Self::Leases { .. } => Err(SbeError::Enumeration { field: "single answer", value: 35 }),
            Self::Pins { .. } => Err(SbeError::Enumeration { field: "single answer", value: 36 }),
        }
    }
}
