//! Listings of a cluster's leases and pins.

use harrier_cluster::codec::TimeUnit;

use crate::codec::{LeaseEntries, PinEntries};

/// A lease as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The application.
    pub application: String,
    /// Unit of the holder; empty when the lease is only pinned.
    pub unit: String,
    /// Fencing token of the tenure; 0 without a holder.
    pub token: u64,
    /// Expiry, cluster time; `i64::MAX` while the lease is pinned.
    pub expiry: i64,
    /// The duration that was claimed, cluster time.
    pub duration: i64,
    /// Number of entities that pin the lease.
    pub pins: u32,
}

/// A pin as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinInfo {
    /// The application.
    pub application: String,
    /// Entity that pins it.
    pub entity: String,
}

/// All leases of a cluster. Pages are read one after the other: each is true at its own position of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    /// Cluster time of the last page.
    pub time: i64,
    /// Unit of all times.
    pub time_unit: TimeUnit,
    /// The leases by slot.
    pub leases: Vec<LeaseInfo>,
}

/// Progress of a listing.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) leases: Leases,
    pub(crate) pins: Vec<PinInfo>,
}

impl Default for Listing {
    fn default() -> Self {
        Self { leases: Leases { time: 0, time_unit: TimeUnit::Millis, leases: Vec::new() }, pins: Vec::new() }
    }
}

impl Listing {
    pub(crate) fn add_leases(&mut self, time: i64, time_unit: i32, entries: LeaseEntries<'_>) {
        self.leases.time = time;
        let units = [TimeUnit::Millis, TimeUnit::Micros, TimeUnit::Nanos];
        if let Some(unit) = units.into_iter().find(|unit| *unit as i32 == time_unit) {
            self.leases.time_unit = unit;
        }
        self.leases.leases.extend(entries.map(|entry| LeaseInfo {
            application: entry.application.to_owned(),
            unit: entry.unit.to_owned(),
            token: entry.token,
            expiry: entry.expiry,
            duration: entry.duration,
            pins: entry.pins.max(0) as u32,
        }));
    }

    pub(crate) fn add_pins(&mut self, entries: PinEntries<'_>) {
        self.pins.extend(entries.map(|entry| PinInfo {
            application: entry.application.to_owned(),
            entity: entry.entity.to_owned(),
        }));
    }
}
