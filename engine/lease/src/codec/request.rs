//! Requests of clients.

use harrier_protocol::sbe::{Encoder, MessageHeader, SbeError};

use super::{CodecError, Process, SCHEMA_ID, SCHEMA_VERSION, close, header, open};

/// Template of envelopes.
const FENCED: u16 = 16;

/// A request. Decoding does not check its names against spec 05 L6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Claim the leadership of an application, or extend the lease.
    Claim {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Duration of the lease, ns.
        duration_ns: i64,
        /// Name of the application.
        application: &'a str,
        /// Name of the unit.
        unit: &'a str,
        /// Process that claims.
        process: Process<'a>,
    },
    /// Give a lease up.
    Release {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Fencing token of the tenure; 0 for none.
        token: u64,
        /// Name of the application.
        application: &'a str,
        /// Name of the unit.
        unit: &'a str,
    },
    /// Ask whether a unit leads.
    Check {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Name of the application.
        application: &'a str,
        /// Name of the unit.
        unit: &'a str,
    },
    /// Wait for the end of a tenure.
    Wait {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Token of the tenure to wait for; 0 for the present one.
        token: u64,
        /// Name of the application.
        application: &'a str,
    },
    /// Give a wait up.
    CancelWait {
        /// Correlation id of the wait.
        correlation_id: i64,
    },
    /// Pin an application: its lease does not expire.
    Pin {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Name of the application.
        application: &'a str,
        /// Name of the entity that pins.
        entity: &'a str,
    },
    /// Take a pin away.
    Unpin {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Name of the application.
        application: &'a str,
        /// Name of the entity that pins.
        entity: &'a str,
    },
    /// Ask for a page of pins.
    Pinned {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Cursor of the page, 0 for the first.
        cursor: i32,
    },
    /// Ask for a page of leases.
    List {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Cursor of the page, 0 for the first.
        cursor: i32,
    },
    /// End another session of the same principal.
    EndSession {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Session to end.
        session_id: i64,
    },
}

fn block_length(template_id: u16, version: u16) -> Option<u16> {
    match template_id {
        1 if version >= Process::SINCE => Some(32),
        1 | 2 | 4 | 10 => Some(16),
        3 | 5 | 6 | 7 => Some(8),
        8 | 9 => Some(12),
        _ => None,
    }
}

fn begin(buffer: &mut [u8], template_id: u16, correlation_id: i64) -> Encoder<'_> {
    let block_length = block_length(template_id, SCHEMA_VERSION).unwrap_or_default();
    Encoder::new(buffer, header(template_id, block_length)).i64(0, correlation_id)
}

impl<'a> Request<'a> {
    /// Decodes a request.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(message: &'a [u8]) -> Result<Self, CodecError> {
        let (template_id, mut m) = open(message, block_length)?;
        let b = m.block();
        let correlation_id = b.i64(0, 0);
        let request = match template_id {
            1 => Self::Claim {
                correlation_id,
                duration_ns: b.i64(8, 0),
                application: m.text("application", 0)?,
                unit: m.text("unit", 0)?,
                process: Process::read(&b, 16, m.text("process", Process::SINCE)?),
            },
            2 => Self::Release {
                correlation_id,
                token: b.i64(8, 0) as u64,
                application: m.text("application", 0)?,
                unit: m.text("unit", 0)?,
            },
            3 => Self::Check {
                correlation_id,
                application: m.text("application", 0)?,
                unit: m.text("unit", 0)?,
            },
            4 => Self::Wait {
                correlation_id,
                token: b.i64(8, 0) as u64,
                application: m.text("application", 0)?,
            },
            5 => Self::CancelWait { correlation_id },
            6 => Self::Pin {
                correlation_id,
                application: m.text("application", 0)?,
                entity: m.text("entity", 0)?,
            },
            7 => Self::Unpin {
                correlation_id,
                application: m.text("application", 0)?,
                entity: m.text("entity", 0)?,
            },
            8 => Self::Pinned { correlation_id, cursor: b.i32(8, 0) },
            9 => Self::List { correlation_id, cursor: b.i32(8, 0) },
            _ => Self::EndSession { correlation_id, session_id: b.i64(8, 0) },
        };
        close(&m)?;
        Ok(request)
    }

    /// Writes the request; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Claim { correlation_id, duration_ns, application, unit, process } => {
                begin(buffer, 1, correlation_id)
                    .i64(8, duration_ns)
                    .i64(16, process.id as i64)
                    .i64(24, process.started_ms)
                    .bytes(application.as_bytes())
                    .bytes(unit.as_bytes())
                    .bytes(process.name.as_bytes())
                    .finish()
            }
            Self::Release { correlation_id, token, application, unit } => begin(buffer, 2, correlation_id)
                .i64(8, token as i64)
                .bytes(application.as_bytes())
                .bytes(unit.as_bytes())
                .finish(),
            Self::Check { correlation_id, application, unit } => {
                begin(buffer, 3, correlation_id).bytes(application.as_bytes()).bytes(unit.as_bytes()).finish()
            }
            Self::Wait { correlation_id, token, application } => {
                begin(buffer, 4, correlation_id).i64(8, token as i64).bytes(application.as_bytes()).finish()
            }
            Self::CancelWait { correlation_id } => begin(buffer, 5, correlation_id).finish(),
            Self::Pin { correlation_id, application, entity } => begin(buffer, 6, correlation_id)
                .bytes(application.as_bytes())
                .bytes(entity.as_bytes())
                .finish(),
            Self::Unpin { correlation_id, application, entity } => begin(buffer, 7, correlation_id)
                .bytes(application.as_bytes())
                .bytes(entity.as_bytes())
                .finish(),
            Self::Pinned { correlation_id, cursor } => {
                begin(buffer, 8, correlation_id).i32(8, cursor).finish()
            }
            Self::List { correlation_id, cursor } => begin(buffer, 9, correlation_id).i32(8, cursor).finish(),
            Self::EndSession { correlation_id, session_id } => {
                begin(buffer, 10, correlation_id).i64(8, session_id).finish()
            }
        }
    }

    /// Correlation id that the answer carries.
    pub fn correlation_id(&self) -> i64 {
        match *self {
            Self::Claim { correlation_id, .. }
            | Self::Release { correlation_id, .. }
            | Self::Check { correlation_id, .. }
            | Self::Wait { correlation_id, .. }
            | Self::CancelWait { correlation_id }
            | Self::Pin { correlation_id, .. }
            | Self::Unpin { correlation_id, .. }
            | Self::Pinned { correlation_id, .. }
            | Self::List { correlation_id, .. }
            | Self::EndSession { correlation_id, .. } => correlation_id,
        }
    }

    /// Replaces the correlation id of an encoded request.
    ///
    /// # Panics
    ///
    /// `message` is not a whole request.
    pub fn set_correlation_id(message: &mut [u8], correlation_id: i64) {
        message[8..16].copy_from_slice(&correlation_id.to_le_bytes());
    }

    /// Replaces the token of an encoded [`Release`](Self::Release) or [`Wait`](Self::Wait).
    ///
    /// # Panics
    ///
    /// `message` is not such a request.
    pub fn set_token(message: &mut [u8], token: u64) {
        message[16..24].copy_from_slice(&token.to_le_bytes());
    }
}

/// An application's message inside a fence (spec 05 L20).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Correlation id of the request; the answer repeats it.
    pub correlation_id: i64,
    /// Token of the sender's tenure.
    pub token: u64,
    /// Name of the application.
    pub application: &'a str,
    /// Message of the application.
    pub payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Decodes an envelope; `None` for other messages of the schema.
    ///
    /// # Errors
    /// See [`CodecError`].
    #[inline]
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, CodecError> {
        let header = MessageHeader::decode(message)?;
        header.expect_schema(SCHEMA_ID)?;
        if header.template_id != FENCED {
            return Ok(None);
        }
        let (_, mut m) = open(message, |_, _| Some(16))?;
        let b = m.block();
        let envelope = Self {
            correlation_id: b.i64(0, 0),
            token: b.i64(8, 0) as u64,
            application: m.text("application", 0)?,
            payload: m.bytes("payload", 0)?,
        };
        close(&m)?;
        Ok(Some(envelope))
    }

    /// Writes the envelope with its payload; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        Encoder::new(buffer, header(FENCED, 16))
            .i64(0, self.correlation_id)
            .i64(8, self.token as i64)
            .bytes(self.application.as_bytes())
            .bytes(self.payload)
            .finish()
    }

    /// Returns the length of an envelope around `payload_length` bytes.
    pub fn encoded_length(application: &str, payload_length: usize) -> usize {
        8 + 16 + 4 + application.len() + 4 + payload_length
    }
}
