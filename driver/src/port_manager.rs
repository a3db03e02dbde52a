//! Local ports for channels with port 0 (spec 02 §3.15).

use std::collections::BTreeMap;

/// Allocates ports of a range; with the range 0..0 the system chooses.
#[derive(Debug)]
pub(crate) struct PortManager {
    low: u16,
    high: u16,
    next: u16,
    /// Number of sockets by port. Sockets on different addresses may have the same port.
    used: BTreeMap<u16, usize>,
}

impl PortManager {
    pub(crate) fn new((low, high): (u16, u16)) -> Self {
        Self { low, high, next: low, used: BTreeMap::new() }
    }

    /// Returns a port to bind; 0 lets the system choose. `Err` has the text of the refusal.
    pub(crate) fn allocate(&mut self) -> Result<u16, String> {
        if self.high == 0 {
            return Ok(0);
        }
        let free = |ports: std::ops::RangeInclusive<u16>, used: &BTreeMap<u16, usize>| {
            ports.into_iter().find(|port| !used.contains_key(port))
        };
        let port = free(self.next..=self.high, &self.used)
            .or_else(|| free(self.low..=self.high, &self.used))
            .ok_or_else(|| format!("no available ports in range {} {}", self.low, self.high))?;
        self.mark(port);
        self.next = if port < self.high { port + 1 } else { self.low };
        Ok(port)
    }

    /// Notes a port that a channel names itself.
    pub(crate) fn mark(&mut self, port: u16) {
        *self.used.entry(port).or_default() += 1;
    }

    /// Releases a port, if there is one.
    pub(crate) fn release(&mut self, port: Option<u16>) {
        if let Some(port) = port {
            self.free(port);
        }
    }

    fn free(&mut self, port: u16) {
        if let Some(count) = self.used.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.used.remove(&port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_range_are_given_once() {
        let mut ports = PortManager::new((20_700, 20_701));
        assert_eq!((ports.allocate(), ports.allocate()), (Ok(20_700), Ok(20_701)));
        assert_eq!(ports.allocate().unwrap_err(), "no available ports in range 20700 20701");
        ports.free(20_700);
        ports.mark(20_701);
        assert_eq!(ports.allocate(), Ok(20_700));
        // Two addresses have the same port, and each keeps it.
        ports.free(20_701);
        assert!(ports.allocate().is_err());
        ports.free(20_701);
        assert_eq!(ports.allocate(), Ok(20_701));
        assert_eq!(PortManager::new((0, 0)).allocate(), Ok(0));
    }
}
