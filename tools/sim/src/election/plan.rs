//! Plan of a run, drawn from its seed.

use harrier_ringbuf::Rng;

/// Settings and faults of one run. Times are in units of 1 ms of virtual time.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Keep the events as text.
    pub keep_lines: bool,
    /// Number of members: 1, 3 or 5.
    pub members: usize,
    /// electionStatusInterval.
    pub status: u64,
    /// leaderHeartbeatInterval.
    pub interval: u64,
    /// leaderHeartbeatTimeout.
    pub timeout: u64,
    /// electionTimeout.
    pub election: u64,
    /// startupCanvassTimeout.
    pub startup: u64,
    /// Messages lost, per 1,000.
    pub loss: u64,
    /// Messages doubled, per 1,000.
    pub doubling: u64,
    /// Largest delay of a message.
    pub delay: u64,
    /// Mean time between two faults; 0 for none.
    pub fault_gap: u64,
    /// Time at which faults end and everything heals.
    pub healing: u64,
    /// Rates of the members' timers, in percent.
    pub rates: [u64; super::MEMBERS],
    /// Members may lose their disks; then only what each member promises by itself is checked.
    pub has_wipes: bool,
    /// Members cut their logs below their snapshots.
    pub has_purges: bool,
    /// Largest time of a write to disk.
    pub disk: u64,
    /// Appointed leader, if any.
    pub appointed: Option<i32>,
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub fn draw(seed: u64, keep_lines: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x00E1_EC71_0000);
        let members = match rng.below(16) {
            0 => 1,
            1..=5 => 5,
            _ => 3,
        };
        let timeout = 60 + rng.below(60);
        let is_calm = rng.chance(1, 8);
        let delay = if rng.chance(1, 4) { 15 } else { 2 + rng.below(6) };
        let disk = if rng.chance(1, 4) { 15 } else { 2 + rng.below(4) };
        Self {
            keep_lines,
            members,
            status: 10 + rng.below(10),
            interval: 10 + rng.below(10),
            timeout,
            election: (60 + rng.below(60)).max(4 * (delay + disk)),
            startup: 2 * timeout + rng.below(100),
            loss: if is_calm { 0 } else { rng.below(150) },
            doubling: if is_calm { 0 } else { rng.below(100) },
            delay,
            fault_gap: 30 + rng.below(150),
            healing: 800 + rng.below(500),
            rates: std::array::from_fn(|_| 90 + rng.below(21)),
            has_wipes: members > 1 && rng.chance(1, 5),
            has_purges: rng.chance(1, 4),
            disk,
            appointed: rng.chance(1, 40).then(|| rng.below(members as u64) as i32),
        }
    }

    /// Time after healing within which a leader has committed something new: canvass or heartbeat time-out, and three
    /// rounds of election time-out and longest replay.
    pub fn progress_bound(&self) -> u64 {
        let slowest = self.startup.max(self.timeout) + self.timeout;
        let round = self.election + 2 * self.timeout + 10 * (self.disk + self.delay);
        (slowest + 3 * round) * 112 / 100
    }
}
