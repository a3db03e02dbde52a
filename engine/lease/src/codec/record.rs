//! Records of a snapshot.

use harrier_protocol::sbe::{Encoder, SbeError};

use super::{CodecError, Process, SCHEMA_VERSION, close, header, open};

/// Counts and time at the begin of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Highest cluster time that the table has seen.
    pub time: i64,
    /// Unit of cluster time, as in [`harrier_cluster::codec::TimeUnit`].
    pub time_unit: i32,
    /// Records of leases.
    pub leases: i32,
    /// Records of pins.
    pub pins: i32,
    /// Records of timers.
    pub timers: i32,
    /// Records of waiters.
    pub waiters: i32,
}

/// A record of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// Counts of the other records, template 48.
    Head(Head),
    /// A lease, template 49.
    Lease {
        /// Fencing token of the tenure; 0 for none.
        token: u64,
        /// Cluster time at which the lease ends.
        expiry: i64,
        /// Duration of the lease, in units of cluster time.
        duration: i64,
        /// Slot of the lease.
        slot: i32,
        /// Name of the application.
        application: &'a str,
        /// Name of the holder; empty for an application that is only pinned.
        unit: &'a str,
        /// Process that claimed the lease last.
        process: Process<'a>,
        /// Cluster time of the last claim of that process.
        claimed: i64,
    },
    /// A pin, template 50.
    Pin {
        /// Index of the pin.
        index: i32,
        /// Slot of the lease.
        lease_slot: i32,
        /// Name of the entity that pins.
        entity: &'a str,
    },
    /// A timer, template 51.
    Timer {
        /// Cluster time at which the timer fires.
        deadline: i64,
        /// Slot of the lease.
        slot: i32,
    },
    /// A session that waits, template 52.
    Waiter {
        /// Session that waits.
        session_id: i64,
        /// Correlation id of the wait.
        correlation_id: i64,
        /// Slot of the lease.
        lease_slot: i32,
        /// Index of the waiter.
        index: i32,
    },
    /// End of the snapshot, template 53.
    End {
        /// Records before this one.
        records: i64,
    },
}

fn block_length(template_id: u16, version: u16) -> Option<u16> {
    match template_id {
        49 if version >= Process::SINCE => Some(52),
        48 | 49 => Some(28),
        50 | 53 => Some(8),
        51 => Some(12),
        52 => Some(24),
        _ => None,
    }
}

impl<'a> Record<'a> {
    /// Decodes a record.
    ///
    /// # Errors
    /// See [`CodecError`]. A record of a newer version is refused, because it may contain state that this reader does
    /// not know.
    pub fn decode(message: &'a [u8]) -> Result<Self, CodecError> {
        let (template_id, mut m) = open(message, block_length)?;
        let version = m.header().version;
        if version > SCHEMA_VERSION {
            return Err(CodecError::Version { expected: SCHEMA_VERSION, actual: version });
        }
        let b = m.block();
        let record = match template_id {
            48 => Self::Head(Head {
                time: b.i64(0, 0),
                time_unit: b.i32(8, 0),
                leases: b.i32(12, 0),
                pins: b.i32(16, 0),
                timers: b.i32(20, 0),
                waiters: b.i32(24, 0),
            }),
            49 => Self::Lease {
                token: b.i64(0, 0) as u64,
                expiry: b.i64(8, 0),
                duration: b.i64(16, 0),
                slot: b.i32(24, 0),
                application: m.text("application", 0)?,
                unit: m.text("unit", 0)?,
                process: Process::read(&b, 28, m.text("process", Process::SINCE)?),
                claimed: if b.has(44, 8, Process::SINCE) { b.i64(44, 0) } else { 0 },
            },
            50 => Self::Pin { index: b.i32(0, 0), lease_slot: b.i32(4, 0), entity: m.text("entity", 0)? },
            51 => Self::Timer { deadline: b.i64(0, 0), slot: b.i32(8, 0) },
            52 => Self::Waiter {
                session_id: b.i64(0, 0),
                correlation_id: b.i64(8, 0),
                lease_slot: b.i32(16, 0),
                index: b.i32(20, 0),
            },
            _ => Self::End { records: b.i64(0, 0) },
        };
        close(&m)?;
        Ok(record)
    }

    /// Writes the record; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Head(head) => Encoder::new(buffer, header(48, 28))
                .i64(0, head.time)
                .i32(8, head.time_unit)
                .i32(12, head.leases)
                .i32(16, head.pins)
                .i32(20, head.timers)
                .i32(24, head.waiters)
                .finish(),
            Self::Lease { token, expiry, duration, slot, application, unit, process, claimed } => {
                Encoder::new(buffer, header(49, 52))
                    .i64(0, token as i64)
                    .i64(8, expiry)
                    .i64(16, duration)
                    .i32(24, slot)
                    .i64(28, process.id as i64)
                    .i64(36, process.started_ms)
                    .i64(44, claimed)
                    .bytes(application.as_bytes())
                    .bytes(unit.as_bytes())
                    .bytes(process.name.as_bytes())
                    .finish()
            }
            Self::Pin { index, lease_slot, entity } => Encoder::new(buffer, header(50, 8))
                .i32(0, index)
                .i32(4, lease_slot)
                .bytes(entity.as_bytes())
                .finish(),
            Self::Timer { deadline, slot } => {
                Encoder::new(buffer, header(51, 12)).i64(0, deadline).i32(8, slot).finish()
            }
            Self::Waiter { session_id, correlation_id, lease_slot, index } => {
                Encoder::new(buffer, header(52, 24))
                    .i64(0, session_id)
                    .i64(8, correlation_id)
                    .i32(16, lease_slot)
                    .i32(20, index)
                    .finish()
            }
            Self::End { records } => Encoder::new(buffer, header(53, 8)).i64(0, records).finish(),
        }
    }
}
