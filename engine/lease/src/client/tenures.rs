//! The tenures that this process knows of by its own claims.

use std::collections::BTreeMap;

use crate::claimer::Tenure;

/// Own tenures by application and unit. What is not known counts as not held.
#[derive(Debug, Default)]
pub struct Tenures {
    by_application: BTreeMap<String, BTreeMap<String, Tenure>>,
}

impl Tenures {
    /// A claim has succeeded. A guarantee of the same tenure that reaches further stands (spec 05 L4).
    pub fn put(&mut self, application: &str, unit: &str, tenure: Tenure) {
        if let Some(own) = self.by_application.get_mut(application).and_then(|units| units.get_mut(unit)) {
            let before = if own.token == tenure.token { own.guaranteed_until_ns } else { i64::MIN };
            *own = Tenure { guaranteed_until_ns: tenure.guaranteed_until_ns.max(before), ..tenure };
            return;
        }
        self.by_application.entry(application.to_owned()).or_default().insert(unit.to_owned(), tenure);
    }

    /// A tenure is over, or about to be.
    pub fn remove(&mut self, application: &str, unit: &str) {
        if let Some(units) = self.by_application.get_mut(application) {
            units.remove(unit);
            if units.is_empty() {
                self.by_application.remove(application);
            }
        }
    }

    /// The tenure of a unit that leads for certain at `now_ns`, ns of the caller's monotonic clock (spec 05 L9).
    pub fn get(&self, application: &str, unit: &str, now_ns: i64) -> Option<Tenure> {
        let tenure = self.by_application.get(application)?.get(unit)?;
        (now_ns < tenure.guaranteed_until_ns).then_some(*tenure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_held() {
        let mut tenures = Tenures::default();
        assert_eq!(tenures.get("a", "a/0", 0), None);
        tenures.put("a", "a/0", Tenure { token: 1, guaranteed_until_ns: 100 });
        tenures.put("a", "a/0", Tenure { token: 1, guaranteed_until_ns: 50 });
        assert_eq!(tenures.get("a", "a/0", 99).unwrap().guaranteed_until_ns, 100);
        assert_eq!(tenures.get("a", "a/0", 100), None);
        assert_eq!(tenures.get("a", "a/1", 0), None);
        tenures.put("a", "a/0", Tenure { token: 2, guaranteed_until_ns: 50 });
        assert_eq!(tenures.get("a", "a/0", 50), None);
        tenures.remove("a", "a/0");
        tenures.remove("a", "a/0");
        assert_eq!(tenures.get("a", "a/0", 0), None);
    }
}
