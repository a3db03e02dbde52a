//! Settings of the lease table.

use thiserror::Error;

/// Invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("lease setting {setting} {rule}")]
pub struct InvalidLeaseSetting {
    /// Name and value of the setting.
    pub setting: String,
    /// Values that would be valid.
    pub rule: &'static str,
}

/// Settings of the lease service. All copies of the lease table in a cluster must have the same settings: those of
/// the lease service and those of services that accept fences. Take a snapshot before you change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Most applications with a holder or a pin.
    pub max_leases: usize,
    /// Most waits for release, of all sessions.
    pub max_waiters: usize,
    /// Most pins, of all applications.
    pub max_pins: usize,
    /// Shortest duration of a claim, ns.
    pub min_duration_ns: i64,
    /// Longest duration of a claim, ns.
    pub max_duration_ns: i64,
    /// A lease lasts longer than it was claimed for, by its duration divided by this: the clocks of two machines may
    /// drift apart by as much (spec 05 L11). One unit of cluster time is added, because the time of a claim is
    /// rounded down to whole units.
    pub drift_divisor: i64,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            max_leases: 65_536,
            max_waiters: 65_536,
            max_pins: 16_384,
            min_duration_ns: 1_000_000,
            max_duration_ns: 24 * 3_600 * 1_000_000_000,
            drift_divisor: 1_000,
        }
    }
}

/// Most leases, waiters or pins.
const MAX_SLOTS: usize = 1 << 24;

impl LeaseSettings {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(), InvalidLeaseSetting> {
        for (name, value) in
            [("max_leases", self.max_leases), ("max_waiters", self.max_waiters), ("max_pins", self.max_pins)]
        {
            if !(1..=MAX_SLOTS).contains(&value) {
                let setting = format!("{name}={value}");
                return Err(InvalidLeaseSetting { setting, rule: "must be from 1 to 16777216" });
            }
        }
        let positive = [
            ("min_duration_ns", self.min_duration_ns, "must be at least 1"),
            ("drift_divisor", self.drift_divisor, "must be at least 1"),
        ];
        for (name, value, rule) in positive {
            if value < 1 {
                return Err(InvalidLeaseSetting { setting: format!("{name}={value}"), rule });
            }
        }
        // Cluster times stay far from the ends of an i64.
        if !(self.min_duration_ns..=i64::MAX / 8).contains(&self.max_duration_ns) {
            let setting = format!("max_duration_ns={}", self.max_duration_ns);
            return Err(InvalidLeaseSetting { setting, rule: "must be at least the shortest duration" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let good = LeaseSettings::default();
        good.validate().unwrap();
        for (bad, name) in [
            (LeaseSettings { max_leases: 0, ..good }, "max_leases=0"),
            (LeaseSettings { max_waiters: 1 << 25, ..good }, "max_waiters=33554432"),
            (LeaseSettings { max_pins: 0, ..good }, "max_pins=0"),
            (LeaseSettings { min_duration_ns: 0, ..good }, "min_duration_ns=0"),
            (LeaseSettings { max_duration_ns: 10, ..good }, "max_duration_ns=10"),
            (LeaseSettings { drift_divisor: 0, ..good }, "drift_divisor=0"),
        ] {
            assert_eq!(bad.validate().unwrap_err().setting, name);
        }
    }
}
