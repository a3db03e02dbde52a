//! Ways in which a unit leads: with a tracker, or with claims of its own.

use harrier_lease::{
    ClaimError, Fence, PolledClaimer, PolledTracker, RequestId, Tenure, Ticket, TrackerState,
};
use harrier_ringbuf::Rng;

use super::application_name;
use super::unit::{Place, Standing};
use super::watched::Watched;

const MS: i64 = 1_000_000;
/// Longest duration of a role, ns.
const LONGEST_ROLE_NS: u64 = 14_000_000_000;
/// Durations that trackers guarantee, ns; they claim twice as much.
const TRACKED_NS: [i64; 5] = [150 * MS, 250 * MS, 500 * MS, 500 * MS, 1_000 * MS];
/// Durations of direct claims, ns.
const CLAIMED_NS: [i64; 6] = [100 * MS, 300 * MS, 555 * MS, 1_000 * MS, 1_000 * MS, 2_000 * MS];

#[derive(Debug)]
struct Tickets {
    claim: Option<(Ticket, i64)>,
    leader: Option<Ticket>,
    minion: Option<Ticket>,
}

enum Kind {
    Tracker {
        tracker: Box<PolledTracker>,
        tickets: Tickets,
        /// Token with which the unit leads and was not told to stop.
        kept: Option<u64>,
    },
    Pause,
    Claiming {
        id: RequestId,
        duration_ns: i64,
    },
    Holding {
        tenure: Tenure,
        duration_ns: i64,
    },
    Waiting {
        id: RequestId,
    },
    Releasing {
        id: RequestId,
    },
}

/// Present way in which a unit leads.
pub struct Role {
    kind: Kind,
    place: Place,
    /// Time of its next step, ns.
    next_ns: i64,
    /// Time at which it begins another role, ns.
    until_ns: Option<i64>,
}

impl Role {
    /// Draws the first role of a process.
    pub fn draw(place: Place, rng: &mut Rng) -> Result<Self, String> {
        let kind = draw_kind(place, rng)?;
        Ok(Self { kind, place, next_ns: 0, until_ns: None })
    }

    /// True when the unit holds nothing and waits for nothing.
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Tracker { tracker, .. } => tracker.is_stopped(),
            Kind::Pause => true,
            _ => false,
        }
    }

    /// Returns the fence of the present tenure.
    pub fn fence(&self, now_ns: i64, place: Place) -> Option<Fence> {
        match &self.kind {
            Kind::Tracker { tracker, .. } => tracker.fence(now_ns),
            Kind::Holding { tenure, .. } if now_ns < tenure.guaranteed_until_ns => Some(Fence {
                application: application_name(place.application).to_owned(),
                unit: place.name().to_owned(),
                token: tenure.token,
            }),
            _ => None,
        }
    }

    /// Returns the next time after now at which it has work to do, ns.
    pub fn next_deadline(&self, now_ns: i64) -> Option<i64> {
        let tracked = match &self.kind {
            Kind::Tracker { tracker, .. } => tracker.next_deadline(),
            _ => None,
        };
        [tracked, Some(self.next_ns), self.until_ns]
            .into_iter()
            .flatten()
            .filter(|time_ns| *time_ns > now_ns)
            .min()
    }

    /// Runs the role; returns the work done.
    pub fn run(
        &mut self,
        claimer: &mut Watched<'_>,
        standing: &mut Standing,
        rng: &mut Rng,
        now_ns: i64,
        is_draining: bool,
    ) -> usize {
        let until_ns = *self.until_ns.get_or_insert_with(|| now_ns + rng.below(LONGEST_ROLE_NS) as i64);
        if let Kind::Tracker { .. } = self.kind {
            return self.track(claimer, standing, rng, now_ns, is_draining);
        }
        if is_draining {
            return self.let_go(claimer, rng, now_ns);
        }
        if now_ns >= until_ns && matches!(self.kind, Kind::Pause) {
            self.change(claimer, rng, now_ns);
        }
        self.claim_directly(claimer, rng, now_ns)
    }

    fn hit(claimer: &Watched<'_>, what: &'static str) {
        claimer.kernel.state().coverage.hit(what);
    }

    fn change(&mut self, claimer: &Watched<'_>, rng: &mut Rng, now_ns: i64) {
        match draw_kind(self.place, rng) {
            Ok(kind) => self.kind = kind,
            Err(error) => claimer.truth.borrow_mut().violate("tracker", error),
        }
        self.until_ns = None;
        self.next_ns = now_ns;
    }

    fn track(
        &mut self,
        claimer: &mut Watched<'_>,
        standing: &mut Standing,
        rng: &mut Rng,
        now_ns: i64,
        is_draining: bool,
    ) -> usize {
        let is_due = self.until_ns.is_some_and(|until_ns| now_ns >= until_ns);
        let Kind::Tracker { tracker, tickets, kept } = &mut self.kind else { return 0 };
        if is_due || is_draining {
            let releases = rng.chance(1, 2);
            if tracker.state() == TrackerState::Leader && !is_draining {
                Self::hit(
                    claimer,
                    if releases { "tracker stopped with release" } else { "tracker stopped without release" },
                );
            }
            (*kept, standing.leads_with) = (None, None);
            self.until_ns = Some(i64::MAX);
            tracker.stop(releases);
        }
        let work_count = tracker.do_work(claimer, now_ns);
        note_tenure(claimer, standing, tracker, kept, now_ns);
        if now_ns >= self.next_ns && !tracker.is_stopped() {
            self.next_ns = now_ns + rng.below(150_000_000) as i64;
            ask(tracker, tickets, rng, now_ns);
        }
        hear(claimer, tracker, tickets, now_ns);
        if tracker.is_stopped() && !is_draining {
            if tracker.failure().is_some() {
                Self::hit(claimer, "tracker stopped by an error");
            }
            self.next_ns = now_ns + rng.below(200_000_000) as i64;
            self.kind = Kind::Pause;
            self.until_ns = Some(self.next_ns);
        }
        work_count
    }

    fn claim_directly(&mut self, claimer: &mut Watched<'_>, rng: &mut Rng, now_ns: i64) -> usize {
        let is_due = now_ns >= self.next_ns;
        let (application, unit) = (application_name(self.place.application), self.place.name());
        let next = match &self.kind {
            Kind::Pause if is_due => {
                let duration_ns = CLAIMED_NS[rng.below(CLAIMED_NS.len() as u64) as usize];
                claimer
                    .start_claim(application, unit, duration_ns, now_ns)
                    .ok()
                    .map(|id| Kind::Claiming { id, duration_ns })
            }
            Kind::Claiming { id, duration_ns } => claimer.poll_claim(*id).map(|outcome| match outcome {
                Ok(tenure) => Kind::Holding { tenure, duration_ns: *duration_ns },
                Err(ClaimError::Denied) if rng.chance(4, 5) => {
                    claimer.start_block(application, now_ns).map_or(Kind::Pause, |id| Kind::Waiting { id })
                }
                Err(_) => Kind::Pause,
            }),
            Kind::Waiting { id } => claimer.poll_block(*id).map(|_| {
                self.next_ns = now_ns;
                Kind::Pause
            }),
            Kind::Holding { tenure, duration_ns } if is_due => match rng.below(4) {
                0 => claimer
                    .start_release(application, unit, tenure.token, now_ns)
                    .ok()
                    .map(|id| Kind::Releasing { id }),
                // The lease is left to expire.
                1 => Some(Kind::Pause),
                _ => claimer
                    .start_claim(application, unit, *duration_ns, now_ns)
                    .ok()
                    .map(|id| Kind::Claiming { id, duration_ns: *duration_ns }),
            },
            Kind::Releasing { id } => claimer.poll_release(*id).map(|_| Kind::Pause),
            _ => None,
        };
        let Some(next) = next else { return 0 };
        let was_waiting = matches!(self.kind, Kind::Waiting { .. });
        self.kind = next;
        let pause_ns = match &self.kind {
            Kind::Pause if was_waiting => 0,
            Kind::Pause => rng.below(1_500_000_000),
            Kind::Holding { duration_ns, .. } => rng.below(*duration_ns as u64 * 5 / 4),
            _ => 1_000_000_000,
        };
        self.next_ns = now_ns + pause_ns as i64;
        1
    }

    /// Ends the present role.
    fn let_go(&mut self, claimer: &mut Watched<'_>, rng: &mut Rng, now_ns: i64) -> usize {
        let (application, unit) = (application_name(self.place.application), self.place.name());
        let next = match &self.kind {
            Kind::Claiming { id, duration_ns } => claimer.poll_claim(*id).map(|outcome| match outcome {
                Ok(tenure) => Kind::Holding { tenure, duration_ns: *duration_ns },
                Err(_) => Kind::Pause,
            }),
            Kind::Holding { tenure, .. } if rng.chance(1, 2) => claimer
                .start_release(application, unit, tenure.token, now_ns)
                .ok()
                .map(|id| Kind::Releasing { id }),
            Kind::Holding { .. } => Some(Kind::Pause),
            Kind::Waiting { id } => claimer.poll_block(*id).map(|_| Kind::Pause),
            Kind::Releasing { id } => claimer.poll_release(*id).map(|_| Kind::Pause),
            Kind::Pause | Kind::Tracker { .. } => None,
        };
        self.next_ns = i64::MAX;
        self.until_ns = Some(i64::MAX);
        let work_count = usize::from(next.is_some());
        if let Some(next) = next {
            self.kind = next;
        }
        work_count
    }
}

fn draw_kind(place: Place, rng: &mut Rng) -> Result<Kind, String> {
    if rng.chance(1, 3) {
        return Ok(Kind::Pause);
    }
    let duration_ns = TRACKED_NS[rng.below(TRACKED_NS.len() as u64) as usize];
    let tracker = PolledTracker::new(place.name(), duration_ns).map_err(|error| error.to_string())?;
    let tickets = Tickets { claim: None, leader: None, minion: None };
    Ok(Kind::Tracker { tracker: Box::new(tracker), tickets, kept: None })
}

/// Keeps the token with which a tracker leads. A tracker that renews must not lose it.
fn note_tenure(
    claimer: &Watched<'_>,
    standing: &mut Standing,
    tracker: &PolledTracker,
    kept: &mut Option<u64>,
    now_ns: i64,
) {
    let token = tracker.tenure(now_ns).map(|tenure| tenure.token);
    if let Some(before) = *kept
        && token != Some(before)
    {
        let now_ns = claimer.kernel.state().now_ns;
        standing.lost = Some((now_ns, 2 * tracker.claim_duration_ns()));
        Role::hit(claimer, "tracker lost its tenure");
    }
    (*kept, standing.leads_with) = (token, token);
}

fn ask(tracker: &mut PolledTracker, tickets: &mut Tickets, rng: &mut Rng, now_ns: i64) {
    match rng.below(3) {
        0 if tickets.claim.is_none() => tickets.claim = Some((tracker.claim_leader(now_ns), now_ns)),
        1 if tickets.leader.is_none() => tickets.leader = Some(tracker.wait_leader(now_ns)),
        2 if tickets.minion.is_none() => tickets.minion = Some(tracker.wait_minion(now_ns)),
        _ => {}
    }
}

/// Checks the answers of tickets (spec 05 L16, L17).
fn hear(claimer: &Watched<'_>, tracker: &PolledTracker, tickets: &mut Tickets, now_ns: i64) {
    let (unit, application) = (claimer.place.unit_id(), claimer.place.application);
    let tenure = tracker.tenure(now_ns);
    let violate = |text: String| claimer.truth.borrow_mut().violate("ticket", text);
    if let Some((answer, issued_ns)) =
        tickets.claim.as_ref().and_then(|(ticket, issued_ns)| Some((ticket.answer()?, *issued_ns)))
    {
        tickets.claim = None;
        Role::hit(claimer, if answer { "claim ticket true" } else { "claim ticket false" });
        let until_ns = claimer.kernel.virtual_ns(claimer.place.host, issued_ns + tracker.claim_duration_ns());
        match tenure {
            Some(tenure) if answer => {
                claimer.truth.borrow_mut().believe(unit, application, tenure.token, until_ns);
            }
            // An answer that arrived too late to be useful was true at its time.
            None if answer && until_ns > claimer.kernel.state().now_ns => {
                violate(format!("{unit} leads {application} by a ticket until {until_ns}"));
            }
            _ => {}
        }
    }
    if let Some(answer) = tickets.leader.as_ref().and_then(Ticket::answer) {
        tickets.leader = None;
        Role::hit(claimer, if answer { "leader ticket true" } else { "leader ticket false" });
        match tenure {
            Some(tenure) if answer => {
                claimer.truth.borrow_mut().on_told_locally(unit, application, tenure.token);
            }
            None if answer => violate(format!("{unit} leads {application} by a ticket")),
            _ => {}
        }
    } else if tenure.is_some() && tickets.leader.is_some() {
        violate(format!("{unit} leads {application}, but a ticket waits for it"));
    }
    if tickets.minion.as_ref().is_some_and(|ticket| ticket.answer().is_some()) {
        tickets.minion = None;
        Role::hit(claimer, "minion ticket");
    } else if tracker.state() == TrackerState::Minion && tickets.minion.is_some() {
        violate(format!("{unit} is no leader of {application}, but a ticket waits for that"));
    }
}
