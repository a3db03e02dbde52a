//! The table as records of a snapshot: equal tables have equal bytes.

use harrier_cluster::codec::TimeUnit;
use harrier_cluster::service::ServiceFailure;
use harrier_protocol::sbe::SbeError;
use thiserror::Error;

use super::{LeaseTable, NO_TIMER, hash};
use crate::codec::{CodecError, Head, MAX_NAME_LENGTH, Process, Record};
use crate::names::check_name;
use crate::settings::LeaseSettings;

/// Reason why records are not a valid table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotStateError {
    /// A record cannot be decoded, or has a newer version.
    #[error("record {index} of the lease table: {error}")]
    Undecodable {
        /// Number of records before it.
        index: i64,
        /// Fault of the record.
        error: CodecError,
    },
    /// A record is out of order, repeated, or belongs to a lease that does not exist.
    #[error("record {index} of the lease table is invalid: {reason}")]
    Record {
        /// Number of records before it.
        index: i64,
        /// Fault of the record.
        reason: &'static str,
    },
    /// The table has more than the settings allow.
    #[error(
        "the lease table of the snapshot has {count} {what}, more than {setting}={limit}; raise the setting"
    )]
    Limit {
        /// Kind of item.
        what: &'static str,
        /// Number of items.
        count: i32,
        /// Name of the setting.
        setting: &'static str,
        /// Value of the setting.
        limit: usize,
    },
    /// The end of the table is missing.
    #[error("the lease table of the snapshot is cut short after {0} records")]
    Cut(i64),
}

/// State of a reader; records arrive in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Head,
    Leases,
    Pins,
    Timers,
    Waiters,
    Complete,
}

/// A waiter of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaiterRecord {
    pub(crate) session_id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) lease_slot: usize,
    pub(crate) index: usize,
}

/// Tenure of a lease record.
struct StoredTenure<'a> {
    unit: &'a str,
    token: u64,
    expiry: i64,
    duration: i64,
    process: Process<'a>,
    claimed: i64,
}

/// Assembles a table from its records.
#[derive(Debug)]
pub struct TableReader {
    section: Section,
    head: Head,
    records: i64,
    /// Highest slot or index of the section, to check the order.
    last: i32,
    counts: [i32; 4],
}

impl Default for TableReader {
    fn default() -> Self {
        Self { section: Section::Head, head: Head::default(), records: 0, last: -1, counts: [0; 4] }
    }
}

impl TableReader {
    /// Takes the next record into an empty table. Waiters go to `on_waiter`, which returns the fault of an invalid
    /// one.
    pub(crate) fn on_record(
        &mut self,
        table: &mut LeaseTable,
        message: &[u8],
        on_waiter: &mut impl FnMut(&WaiterRecord) -> Result<(), &'static str>,
    ) -> Result<(), SnapshotStateError> {
        let index = self.records;
        let record =
            Record::decode(message).map_err(|error| SnapshotStateError::Undecodable { index, error })?;
        self.take(table, &record, on_waiter)?;
        self.records += 1;
        Ok(())
    }

    /// True when the last record has been read.
    pub fn is_complete(&self) -> bool {
        self.section == Section::Complete
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// [`SnapshotStateError::Cut`].
    pub fn finish(&self) -> Result<(), SnapshotStateError> {
        if self.is_complete() { Ok(()) } else { Err(SnapshotStateError::Cut(self.records)) }
    }

    fn take(
        &mut self,
        table: &mut LeaseTable,
        record: &Record<'_>,
        on_waiter: &mut impl FnMut(&WaiterRecord) -> Result<(), &'static str>,
    ) -> Result<(), SnapshotStateError> {
        let index = self.records;
        let refuse = |reason: &'static str| SnapshotStateError::Record { index, reason };
        let outcome = match *record {
            Record::Head(head) => return self.begin(table, head),
            Record::Lease { token, expiry, duration, slot, application, unit, process, claimed } => {
                let tenure = StoredTenure { unit, token, expiry, duration, process, claimed };
                self.enter(Section::Leases, slot, 0)
                    .and_then(|slot| table.restore_lease(slot, application, &tenure))
            }
            Record::Pin { index, lease_slot, entity } => {
                self.enter(Section::Pins, index, 1).and_then(|pin| table.restore_pin(pin, lease_slot, entity))
            }
            Record::Timer { deadline, slot } => {
                self.enter(Section::Timers, slot, 2).and_then(|slot| table.restore_timer(slot, deadline))
            }
            Record::Waiter { session_id, correlation_id, lease_slot, index } => {
                self.enter(Section::Waiters, index, 3).and_then(|index| {
                    let lease_slot = usize::try_from(lease_slot).map_err(|_| "its slot cannot be")?;
                    if !table.has_holder_at(lease_slot) {
                        return Err("nobody holds what is waited for");
                    }
                    on_waiter(&WaiterRecord { session_id, correlation_id, lease_slot, index })
                })
            }
            Record::End { records } => self.end(table, records),
        };
        outcome.map_err(refuse)
    }

    fn begin(&mut self, table: &mut LeaseTable, head: Head) -> Result<(), SnapshotStateError> {
        let index = self.records;
        let refuse = |reason: &'static str| SnapshotStateError::Record { index, reason };
        if self.section != Section::Head {
            return Err(refuse("a head within a table"));
        }
        let units = [TimeUnit::Millis, TimeUnit::Micros, TimeUnit::Nanos];
        let unit = units.into_iter().find(|unit| *unit as i32 == head.time_unit);
        table.time_unit = unit.ok_or_else(|| refuse("its time unit is none"))?;
        table.time = head.time;
        let settings = &table.settings;
        for (what, count, setting, limit) in [
            ("leases", head.leases, "max_leases", settings.max_leases),
            ("pins", head.pins, "max_pins", settings.max_pins),
            ("timers", head.timers, "max_leases", settings.max_leases),
            ("waiters", head.waiters, "max_waiters", settings.max_waiters),
        ] {
            match usize::try_from(count) {
                Err(_) => return Err(refuse("a count is negative")),
                Ok(actual) if actual > limit => {
                    return Err(SnapshotStateError::Limit { what, count, setting, limit });
                }
                Ok(_) => {}
            }
        }
        self.head = head;
        self.section = Section::Leases;
        Ok(())
    }

    /// Checks the order: sections follow each other, and slots ascend in each section.
    fn enter(&mut self, section: Section, slot: i32, count: usize) -> Result<usize, &'static str> {
        if self.section == Section::Head {
            return Err("no head came before it");
        }
        if section < self.section {
            return Err("it is out of order");
        }
        if section > self.section {
            self.section = section;
            self.last = -1;
        }
        if slot <= self.last {
            return Err("its slot is out of order");
        }
        self.last = slot;
        self.counts[count] += 1;
        usize::try_from(slot).map_err(|_| "its slot cannot be")
    }

    fn end(&mut self, table: &LeaseTable, records: i64) -> Result<(), &'static str> {
        if self.section == Section::Head || self.section == Section::Complete {
            return Err("it is out of order");
        }
        let head = self.head;
        if records != self.records || self.counts != [head.leases, head.pins, head.timers, head.waiters] {
            return Err("records are missing before it");
        }
        if table.slots.taken_from(0).any(|slot| {
            let lease = &table.leases[slot];
            !lease.has_holder() && lease.pin_count == 0
        }) {
            return Err("a lease has neither holder nor pin");
        }
        self.section = Section::Complete;
        Ok(())
    }
}

impl LeaseTable {
    /// Passes the table to `put` as the records of a snapshot, for instance to compare replicas byte by byte.
    ///
    /// # Errors
    ///
    /// The error of `put`.
    pub fn write_state<E: From<SbeError>>(
        &self,
        put: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        crate::stored::write_records(self, None, put)
    }

    /// Creates a table with the state of a snapshot's records.
    ///
    /// # Errors
    ///
    /// Invalid setting, or see [`SnapshotStateError`].
    pub fn from_state<'m>(
        settings: LeaseSettings,
        records: impl IntoIterator<Item = &'m [u8]>,
    ) -> Result<Self, ServiceFailure> {
        let mut reader = Self::new(settings)?;
        crate::stored::read_records(records, &mut reader, None)?;
        Ok(reader)
    }

    /// Passes the table's records to `put`, except the waiters; returns their number.
    pub(crate) fn write_records<E>(
        &self,
        waiters: usize,
        put: &mut impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<i64, E> {
        let mut records = 1;
        put(&Record::Head(Head {
            time: self.time,
            time_unit: self.time_unit as i32,
            leases: self.slots.len() as i32,
            pins: self.pins.len() as i32,
            timers: self.timer_count as i32,
            waiters: waiters as i32,
        }))?;
        for slot in self.slots.taken_from(0) {
            let lease = &self.leases[slot];
            put(&Record::Lease {
                token: lease.token,
                expiry: lease.expiry,
                duration: lease.duration,
                slot: slot as i32,
                application: lease.application.as_str(),
                unit: lease.unit.as_str(),
                process: lease.process(),
                claimed: lease.claimed,
            })?;
            records += 1;
        }
        for (index, lease_slot, entity) in self.pins.from(0) {
            put(&Record::Pin { index: index as i32, lease_slot: lease_slot as i32, entity })?;
            records += 1;
        }
        for (slot, deadline) in self.timers.iter().enumerate().filter(|(_, timer)| **timer != NO_TIMER) {
            put(&Record::Timer { deadline: *deadline, slot: slot as i32 })?;
            records += 1;
        }
        Ok(records)
    }

    fn has_holder_at(&self, slot: usize) -> bool {
        self.slots.is_taken(slot) && self.leases[slot].has_holder()
    }

    fn restore_lease(
        &mut self,
        slot: usize,
        application: &str,
        tenure: &StoredTenure<'_>,
    ) -> Result<(), &'static str> {
        let StoredTenure { unit, token, expiry, duration, process, claimed } = *tenure;
        check_name("application", application).map_err(|_| "its application is no name")?;
        if unit.is_empty() {
            if (token, expiry, duration, claimed, process) != (0, 0, 0, 0, Process::UNNAMED) {
                return Err("it has a tenure without a unit");
            }
        } else {
            check_name("unit", unit).map_err(|_| "its unit is no name")?;
            if token == 0 || duration < 1 {
                return Err("its tenure has no token or no duration");
            }
            if process.name.len() > MAX_NAME_LENGTH {
                return Err("the name of its process is too long");
            }
        }
        if self.find(application).is_some() {
            return Err("its application is there already");
        }
        if !self.slots.take_at(slot) {
            return Err("its slot is taken or beyond max_leases");
        }
        let lease = &mut self.leases[slot];
        *lease = super::Lease::NONE;
        lease.application.set(application);
        lease.unit.set(unit);
        (lease.token, lease.expiry, lease.duration, lease.claimed) = (token, expiry, duration, claimed);
        lease.set_process(&process);
        self.index.insert(hash(0, application.as_bytes()), slot);
        Ok(())
    }

    fn restore_pin(&mut self, pin: usize, lease_slot: i32, entity: &str) -> Result<(), &'static str> {
        check_name("entity", entity).map_err(|_| "its entity is no name")?;
        let slot = usize::try_from(lease_slot).map_err(|_| "its lease cannot be")?;
        if !self.slots.is_taken(slot) {
            return Err("its lease is not there");
        }
        if self.pins.find(slot, entity).is_some() {
            return Err("it is there already");
        }
        let first = self.leases[slot].first_pin;
        let Some(first) = self.pins.add_at(pin, slot, entity, first) else {
            return Err("its index is beyond max_pins");
        };
        let lease = &mut self.leases[slot];
        lease.first_pin = first;
        lease.pin_count += 1;
        Ok(())
    }

    fn restore_timer(&mut self, slot: usize, deadline: i64) -> Result<(), &'static str> {
        if deadline == NO_TIMER {
            return Err("its deadline cannot be");
        }
        let timer = self.timers.get_mut(slot).ok_or("its slot is beyond max_leases")?;
        *timer = deadline;
        self.timer_count += 1;
        Ok(())
    }
}
