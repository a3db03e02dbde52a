//! The tenures that this process knows of by its own claims.

use std::collections::BTreeMap;

use crate::claimer::Tenure;

#[derive(Debug, Clone, Copy)]
struct Known {
    tenure: Tenure,
    /// Highest token whose release was begun: an answer to a claim that was on its way then brings it no more.
    released: u64,
}

/// Own tenures by application and unit. What is not known counts as not held.
#[derive(Debug, Default)]
pub struct Tenures {
    by_application: BTreeMap<String, BTreeMap<String, Known>>,
}

impl Tenures {
    /// Stores the tenure of a successful claim. A longer guarantee of the same tenure is kept (spec 05 L4).
    pub fn put(&mut self, application: &str, unit: &str, tenure: Tenure) {
        if let Some(entry) = self.known(application, unit) {
            if tenure.token <= entry.released || tenure.token < entry.tenure.token {
                return;
            }
            let before =
                if entry.tenure.token == tenure.token { entry.tenure.guaranteed_until_ns } else { i64::MIN };
            entry.tenure = Tenure { guaranteed_until_ns: tenure.guaranteed_until_ns.max(before), ..tenure };
            return;
        }
        let units = self.by_application.entry(application.to_owned()).or_default();
        units.insert(unit.to_owned(), Known { tenure, released: 0 });
    }

    fn known(&mut self, application: &str, unit: &str) -> Option<&mut Known> {
        self.by_application.get_mut(application)?.get_mut(unit)
    }

    /// The service has said that the unit does not lead.
    pub fn remove(&mut self, application: &str, unit: &str) {
        if let Some(entry) = self.known(application, unit) {
            entry.tenure.guaranteed_until_ns = i64::MIN;
        }
    }

    /// A tenure is about to be released: from here on the unit may not lead any more.
    pub fn release(&mut self, application: &str, unit: &str, token: u64) {
        if let Some(entry) = self.known(application, unit) {
            entry.released = entry.released.max(token);
            if entry.tenure.token <= token {
                entry.tenure.guaranteed_until_ns = i64::MIN;
            }
        }
    }

    /// The tenure of a unit that leads for certain at `now_ns`, ns of the caller's monotonic clock (spec 05 L9).
    pub fn get(&self, application: &str, unit: &str, now_ns: i64) -> Option<Tenure> {
        let entry = self.by_application.get(application)?.get(unit)?;
        (now_ns < entry.tenure.guaranteed_until_ns).then_some(entry.tenure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(token: u64, guaranteed_until_ns: i64) -> Tenure {
        Tenure { token, guaranteed_until_ns }
    }

    #[test]
    fn what_is_not_known_is_not_held() {
        let mut tenures = Tenures::default();
        assert_eq!(tenures.get("a", "a/0", 0), None);
        tenures.put("a", "a/0", tenure(1, 100));
        tenures.put("a", "a/0", tenure(1, 50));
        assert_eq!(tenures.get("a", "a/0", 99), Some(tenure(1, 100)));
        assert_eq!(tenures.get("a", "a/0", 100), None);
        assert_eq!(tenures.get("a", "a/1", 0), None);
        tenures.put("a", "a/0", tenure(2, 50));
        assert_eq!(tenures.get("a", "a/0", 50), None);
        tenures.put("a", "a/0", tenure(1, 200));
        assert_eq!(tenures.get("a", "a/0", 50), None, "an older tenure's late answer");
        tenures.remove("a", "a/0");
        assert_eq!(tenures.get("a", "a/0", 0), None);
    }

    #[test]
    fn a_late_answer_does_not_bring_back_what_was_released() {
        let mut tenures = Tenures::default();
        tenures.put("a", "a/0", tenure(5, 100));
        tenures.release("a", "a/0", 4);
        assert_eq!(tenures.get("a", "a/0", 0), Some(tenure(5, 100)));
        tenures.release("a", "a/0", 5);
        tenures.put("a", "a/0", tenure(5, 200));
        assert_eq!(tenures.get("a", "a/0", 0), None);
        tenures.put("a", "a/0", tenure(6, 200));
        assert_eq!(tenures.get("a", "a/0", 0), Some(tenure(6, 200)));
    }
}
