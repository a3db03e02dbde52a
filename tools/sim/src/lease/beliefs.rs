//! Guarantees that units have received, in virtual time.

use std::collections::BTreeMap;

use super::UnitId;
use super::truth::Holder;

#[derive(Debug, Clone, Copy)]
struct Belief {
    token: u64,
    until_ns: i64,
    /// Highest token that the unit has released.
    released: u64,
}

/// Guarantees by application and unit. The death of a unit's process does not end them: the lease belongs to the
/// unit.
#[derive(Debug, Default)]
pub struct Beliefs(BTreeMap<(usize, UnitId), Belief>);

impl Beliefs {
    /// A unit leads until a virtual time, ns; a guarantee that reaches further stays.
    pub fn put(&mut self, unit: UnitId, application: usize, token: u64, until_ns: i64) {
        let none = Belief { token, until_ns, released: 0 };
        let own = self.0.entry((application, unit)).or_insert(none);
        if token <= own.released || token < own.token {
            return;
        }
        own.until_ns = if token == own.token { own.until_ns.max(until_ns) } else { until_ns };
        own.token = token;
    }

    /// A unit releases a tenure and all earlier ones.
    pub fn release(&mut self, unit: UnitId, application: usize, token: u64) {
        let none = Belief { token, until_ns: i64::MIN, released: token };
        let own = self.0.entry((application, unit)).or_insert(none);
        own.released = own.released.max(token);
        if own.token <= token {
            own.until_ns = i64::MIN;
        }
    }

    /// Returns the virtual time until which a unit leads with a token, ns.
    pub fn until_ns(&self, unit: UnitId, application: usize, token: u64) -> i64 {
        self.0
            .get(&(application, unit))
            .filter(|belief| belief.token == token)
            .map_or(i64::MIN, |belief| belief.until_ns)
    }

    fn of(&self, application: usize, now_ns: i64) -> impl Iterator<Item = (UnitId, u64, i64)> {
        self.0
            .range((application, 0)..=(application, UnitId::MAX))
            .filter(move |(_, candidate)| candidate.until_ns > now_ns)
            .map(|((_, unit), own)| (*unit, own.token, own.until_ns))
    }

    /// Returns a unit with a guarantee that the log contradicts.
    pub fn contradicting(
        &self,
        application: usize,
        holder: Holder,
        now_ns: i64,
    ) -> Option<(UnitId, u64, i64)> {
        self.of(application, now_ns)
            .find(|(unit, token, _)| holder.unit != Some(*unit) || holder.token != *token)
    }

    /// Returns two units that lead at the same time.
    pub fn overlapping(&self, application: usize, now_ns: i64) -> Option<(UnitId, UnitId)> {
        let mut leading = self.of(application, now_ns);
        Some((leading.next()?.0, leading.next()?.0))
    }
}
