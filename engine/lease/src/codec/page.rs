//! Pages of leases and pins.

use harrier_protocol::sbe::{Decoder, Encoder, Group};

use super::{CodecError, header};

/// Offset of the count in a group's header.
const COUNT: usize = 2;
const LEASE_BLOCK: u16 = 28;

/// A lease of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseEntry<'a> {
    /// Fencing token of the tenure; 0 for none.
    pub token: u64,
    /// Cluster time at which the lease ends; 0 without a holder.
    pub expiry: i64,
    /// Duration of the lease, in units of cluster time.
    pub duration: i64,
    /// Entities that pin the application.
    pub pins: i32,
    /// Name of the application.
    pub application: &'a str,
    /// Name of the holder; empty without one.
    pub unit: &'a str,
}

/// A pin of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinEntry<'a> {
    /// Name of the application.
    pub application: &'a str,
    /// Name of the entity that pins.
    pub entity: &'a str,
}

/// The leases of a page, already checked.
#[derive(Debug, Clone)]
pub struct LeaseEntries<'a> {
    message: Decoder<'a>,
    group: Group,
}

fn lease_entry<'a>(
    message: &mut Decoder<'a>,
    group: &mut Group,
) -> Result<Option<LeaseEntry<'a>>, CodecError> {
    let Some(block) = message.entry("lease", group)? else { return Ok(None) };
    Ok(Some(LeaseEntry {
        token: block.i64(0, 0) as u64,
        expiry: block.i64(8, 0),
        duration: block.i64(16, 0),
        pins: block.i32(24, 0),
        application: message.text("application", 0)?,
        unit: message.text("unit", 0)?,
    }))
}

impl<'a> LeaseEntries<'a> {
    /// Checks all entries; `message` is behind them afterwards.
    pub(super) fn read(message: &mut Decoder<'a>) -> Result<Self, CodecError> {
        let mut group = message.group("leases", 0)?;
        if group.remaining > 0 && group.block_length < usize::from(LEASE_BLOCK) {
            let actual = group.block_length as u16;
            return Err(CodecError::Block { template_id: 35, required: LEASE_BLOCK, actual });
        }
        let entries = Self { message: message.clone(), group };
        while lease_entry(message, &mut group)?.is_some() {}
        Ok(entries)
    }
}

impl<'a> Iterator for LeaseEntries<'a> {
    type Item = LeaseEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        lease_entry(&mut self.message, &mut self.group).ok().flatten()
    }
}

/// The pins of a page, already checked.
#[derive(Debug, Clone)]
pub struct PinEntries<'a> {
    message: Decoder<'a>,
    group: Group,
}

fn pin_entry<'a>(message: &mut Decoder<'a>, group: &mut Group) -> Result<Option<PinEntry<'a>>, CodecError> {
    let Some(_block) = message.entry("pin", group)? else { return Ok(None) };
    Ok(Some(PinEntry { application: message.text("application", 0)?, entity: message.text("entity", 0)? }))
}

impl<'a> PinEntries<'a> {
    pub(super) fn read(message: &mut Decoder<'a>) -> Result<Self, CodecError> {
        let mut group = message.group("pins", 0)?;
        let entries = Self { message: message.clone(), group };
        while pin_entry(message, &mut group)?.is_some() {}
        Ok(entries)
    }
}

impl<'a> Iterator for PinEntries<'a> {
    type Item = PinEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        pin_entry(&mut self.message, &mut self.group).ok().flatten()
    }
}

/// Writes a page into a buffer, entry by entry, until it is full.
pub struct PageWriter<'a> {
    buffer: &'a mut [u8],
    /// Offset of the group's header, which is the end of the page's own block.
    group: usize,
    cursor: usize,
    length: usize,
    count: u16,
}

impl<'a> PageWriter<'a> {
    /// Begins a page of leases. Entries follow with [`lease`](Self::lease).
    ///
    /// # Panics
    ///
    /// The buffer cannot hold a page without entries.
    pub fn leases(buffer: &'a mut [u8], correlation_id: i64, time: i64, time_unit: i32) -> Self {
        let length = Encoder::new(buffer, header(35, 24))
            .i64(0, correlation_id)
            .i64(8, time)
            .i32(20, time_unit)
            .group(LEASE_BLOCK, 0)
            .finish();
        Self::begun(buffer, length, 24)
    }

    /// Begins a page of pins. Entries follow with [`pin`](Self::pin).
    ///
    /// # Panics
    ///
    /// The buffer cannot hold a page without entries.
    pub fn pins(buffer: &'a mut [u8], correlation_id: i64) -> Self {
        let length = Encoder::new(buffer, header(36, 12)).i64(0, correlation_id).group(0, 0).finish();
        Self::begun(buffer, length, 16)
    }

    fn begun(
        buffer: &'a mut [u8],
        length: Result<usize, harrier_protocol::sbe::SbeError>,
        cursor: usize,
    ) -> Self {
        let length = length.expect("a page has room for its block");
        Self { buffer, group: length - 4, cursor, length, count: 0 }
    }

    /// Adds a lease; returns false when the page has no room for it.
    pub fn lease(&mut self, entry: &LeaseEntry<'_>) -> bool {
        let room = &mut self.buffer[self.length..];
        let written = Encoder::body(room, usize::from(LEASE_BLOCK))
            .i64(0, entry.token as i64)
            .i64(8, entry.expiry)
            .i64(16, entry.duration)
            .i32(24, entry.pins)
            .bytes(entry.application.as_bytes())
            .bytes(entry.unit.as_bytes())
            .finish();
        self.add(written.ok())
    }

    /// Adds a pin; returns false when the page has no room for it.
    pub fn pin(&mut self, entry: &PinEntry<'_>) -> bool {
        let room = &mut self.buffer[self.length..];
        let written = Encoder::body(room, 0)
            .bytes(entry.application.as_bytes())
            .bytes(entry.entity.as_bytes())
            .finish();
        self.add(written.ok())
    }

    fn add(&mut self, written: Option<usize>) -> bool {
        let Some(written) = written.filter(|_| self.count < u16::MAX) else { return false };
        self.length += written;
        self.count += 1;
        true
    }

    /// Ends the page; returns its length.
    pub fn finish(self, next_cursor: i32) -> usize {
        self.buffer[self.cursor..self.cursor + 4].copy_from_slice(&next_cursor.to_le_bytes());
        let count = self.group + COUNT;
        self.buffer[count..count + 2].copy_from_slice(&self.count.to_le_bytes());
        self.length
    }
}
