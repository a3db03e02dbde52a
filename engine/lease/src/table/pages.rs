//! Leases and pins in pages.

use super::LeaseTable;
use crate::codec::{LeaseEntry, PageWriter, PinEntry};

impl LeaseTable {
    /// Writes leases from a slot on, as many as fit into the buffer; returns the page's length. Leases that are over
    /// are left out.
    ///
    /// # Panics
    ///
    /// The buffer cannot hold one lease.
    pub fn write_leases(&self, from: usize, correlation_id: i64, buffer: &mut [u8]) -> usize {
        let mut page = PageWriter::leases(buffer, correlation_id, self.time, self.time_unit as i32);
        for slot in self.slots.taken_from(from) {
            let lease = &self.leases[slot];
            let is_live = self.is_live(slot);
            if !is_live && lease.pin_count == 0 {
                continue;
            }
            let entry = LeaseEntry {
                token: lease.token,
                expiry: if is_live { self.told_expiry(slot) } else { 0 },
                duration: lease.duration,
                pins: lease.pin_count as i32,
                application: lease.application.as_str(),
                unit: lease.unit.as_str(),
            };
            if !page.lease(&entry) {
                assert!(slot > from || from == 0, "a page has room for a lease");
                return page.finish(slot as i32);
            }
        }
        page.finish(-1)
    }

    /// Writes pins from an index on, as many as fit into the buffer; returns the page's length.
    pub fn write_pins(&self, from: usize, correlation_id: i64, buffer: &mut [u8]) -> usize {
        let mut page = PageWriter::pins(buffer, correlation_id);
        for (index, slot, entity) in self.pins.from(from) {
            let application = self.leases[slot].application.as_str();
            if !page.pin(&PinEntry { application, entity }) {
                return page.finish(index as i32);
            }
        }
        page.finish(-1)
    }
}
