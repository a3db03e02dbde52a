//! Ten applications with three unit processes each, and a node, all killed and started again at random: no two
//! guarantees of an application overlap, every take-over is in time, and no write of an old tenure is carried out (spec
//! 05, "What must hold"). Runs for some seconds; `HARRIER_CHAOS_SECONDS=120` for longer, with the bound on take-overs
//! that a machine of one's own allows.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::binaries::{OurDriver, OurNode};
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, rest};
use harrier::client::Aeron;
use harrier::cluster::client::ClusterClientContext;
use harrier::lease::codec::Event;
use harrier::lease::{
    CheckError, Fence, LeaseClient, LeaseClientContext, PolledClaimer, PolledTracker, RequestId, TrackerState,
};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::{Clock, Rng};
use harrier::services::orders::{Order, Reply, Request};
use serde_json::{Value, json};

const APPLICATIONS: usize = 10;
const UNITS: usize = 3;
/// Guarantee of a true claim ticket; the tracker claims twice that.
const DURATION_NS: i64 = 500_000_000;
/// Maximum time for which a lease lasts after its last claim or after the start of a term, drift included.
const LEASE_NS: i64 = 2 * DURATION_NS + 2 * DURATION_NS / 1_000 + 4_000_000;
/// Interval of a leader's writes.
const WRITE_PERIOD_NS: i64 = 50_000_000;
/// Timeout of an answer, which the node's crash may have lost.
const ANSWER_LIMIT_NS: i64 = 3_000_000_000;
/// Environment variable with a unit's instructions.
const TASK: &str = "HARRIER_CHAOS_UNIT";

/// A fenced write without an answer yet.
struct Write {
    sequence: u64,
    token: u64,
    sent_ns: i64,
    /// True when the tenure has certainly ended, so that the write must be refused.
    is_late: bool,
}

/// A unit until it is killed: runs a tracker, writes while it leads, and writes once more under its old fence after its
/// tenure.
struct Unit {
    client: LeaseClient,
    tracker: PolledTracker,
    fence: Option<Fence>,
    told_until_ns: i64,
    /// True when the tenure of `fence` has ended.
    check: Option<RequestId>,
    write: Option<Write>,
    sequence: u64,
    next_write_ns: i64,
}

impl Unit {
    fn new(task: &Value) -> Self {
        let text = |name: &str| task[name].as_str().unwrap();
        let cluster =
            ClusterClientContext::new(text("ingress"), "aeron:udp?endpoint=127.0.0.1:0|term-length=64k");
        let tracker = PolledTracker::new(text("unit"), DURATION_NS).unwrap();
        let fence = task["token"].as_u64().map(|token| {
            let (application, unit) = (tracker.application_name().to_owned(), tracker.unit_name().to_owned());
            Fence { application, unit, token }
        });
        let mut context = LeaseClientContext::new(cluster);
        // A tracker whose request times out stops, so the timeout tolerates a stalled machine.
        context.timeout_ns = PATIENCE_NS;
        Self {
            client: LeaseClient::new(context).unwrap(),
            tracker,
            fence,
            told_until_ns: 0,
            check: None,
            write: None,
            sequence: 0,
            next_write_ns: 0,
        }
    }

    fn say(&self, kind: &str, token: u64, now_ns: i64) {
        let (application, unit) = (self.tracker.application_name(), self.tracker.unit_name());
        let until = self.told_until_ns;
        println!(
            "{}",
            json!({ "kind": kind, "app": application, "unit": unit, "token": token, "now": now_ns, "until": until })
        );
    }

    fn step(&mut self, aeron: &mut Aeron) {
        let now = SystemClock.now();
        // The driver outlives all units.
        aeron.do_work(&now).unwrap();
        while aeron.poll_event().is_some() {}
        let mut answers = Vec::new();
        let mut listener = |_: i64, _: i64, message: &[u8]| match Event::decode(message) {
            Ok(Event::FenceStale { correlation_id, .. }) => answers.push((correlation_id as u64, false)),
            _ => {
                if let Ok(reply) = Reply::decode(message) {
                    answers.push((reply.sequence, true));
                }
            }
        };
        self.client.do_work_with(aeron, &now, &mut listener);
        self.tracker.do_work(&mut self.client, now.ns);
        assert!(!self.tracker.is_stopped(), "{:?}", self.tracker.failure());
        for (sequence, is_delivered) in answers {
            self.on_answer(sequence, is_delivered, now.ns);
        }
        self.write.take_if(|write| now.ns > write.sent_ns + ANSWER_LIMIT_NS);
        self.look(now.ns);
    }

    fn on_answer(&mut self, sequence: u64, is_delivered: bool, now_ns: i64) {
        let Some(write) = self.write.take_if(|write| write.sequence == sequence) else { return };
        let kind = match (write.is_late, is_delivered) {
            (true, true) => "violation",
            (true, false) => "refused",
            (false, true) => "written",
            (false, false) => "deposed",
        };
        self.say(kind, write.token, now_ns);
    }

    fn look(&mut self, now_ns: i64) {
        if let Some(tenure) = self.tracker.tenure(now_ns) {
            if let Some(check) = self.check.take() {
                self.client.cancel(check);
            }
            self.fence = self.tracker.fence(now_ns);
            if tenure.guaranteed_until_ns != self.told_until_ns {
                self.told_until_ns = tenure.guaranteed_until_ns;
                self.say("leads", tenure.token, now_ns);
            }
            if self.write.is_none() && now_ns >= self.next_write_ns {
                self.next_write_ns = now_ns + WRITE_PERIOD_NS;
                self.write(now_ns, false);
            }
        } else if self.tracker.state() == TrackerState::Minion && self.write.is_none() && self.is_over(now_ns)
        {
            self.write(now_ns, true);
        }
    }

    /// True once the log has said that the tenure of the fence is over. A guarantee that has run out says nothing of
    /// the lease, which lasts a little longer.
    fn is_over(&mut self, now_ns: i64) -> bool {
        if self.fence.is_none() {
            return false;
        }
        let Some(check) = self.check else {
            let (application, unit) = (self.tracker.application_name(), self.tracker.unit_name());
            self.check = self.client.start_check(application, unit, now_ns).ok();
            return false;
        };
        let Some(outcome) = self.client.poll_check(check, None) else { return false };
        self.check = None;
        outcome == Err(CheckError::NotHeld)
    }

    /// Writes under the current fence; uses an old one once.
    fn write(&mut self, now_ns: i64, is_late: bool) {
        let Some(fence) = self.fence.clone() else { return };
        let Some(session) = self.client.session() else { return };
        let (sequence, mut message) = (self.sequence + 1, Vec::new());
        fence.wrap(sequence as i64, &Request { sequence, order: Order::Digest }.encode(), &mut message);
        if session.offer(&message).is_ok() {
            self.sequence = sequence;
            self.write = Some(Write { sequence, token: fence.token, sent_ns: now_ns, is_late });
            if is_late {
                self.fence = None;
            }
        }
    }
}

/// A unit's process: this test program, started again with a task.
#[test]
fn unit_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task: Value = serde_json::from_str(&task).unwrap();
    let context = crate::support::client::context(Path::new(task["aeron_dir"].as_str().unwrap()));
    let mut aeron = Aeron::connect(context, MappedMemory, &SystemClock.now()).unwrap();
    let mut unit = Unit::new(&task);
    loop {
        unit.step(&mut aeron);
        rest();
    }
}

/// Observed facts of one tenure.
struct Tenure {
    unit: usize,
    first_ns: i64,
    until_ns: i64,
}

/// A unit with its process.
struct Member {
    /// `None` between a kill and the next start.
    process: Option<Process>,
    start_at_ns: i64,
    application: usize,
    index: usize,
    token: Option<u64>,
    killed_ns: Vec<i64>,
}

struct Field {
    driver: OurDriver,
    node: OurNode,
    members: Vec<Member>,
    tenures: Vec<BTreeMap<u64, Tenure>>,
    /// Times at which the node served again.
    ready_ns: Vec<i64>,
    counts: BTreeMap<String, u64>,
}

impl Field {
    fn new() -> Self {
        // Short timeouts free the resources of the many killed processes soon.
        let driver =
            OurDriver::start(&["aeron.client.liveness.timeout=20s", "aeron.publication.unblock.timeout=25s"]);
        let node = OurNode::start(&[
            "--service",
            "lease",
            "--services",
            "2",
            "--max-sessions",
            "500",
            "--idle",
            "backoff",
        ]);
        let mut field = Self {
            driver,
            node,
            members: Vec::new(),
            tenures: (0..APPLICATIONS).map(|_| BTreeMap::new()).collect(),
            ready_ns: vec![SystemClock.now().ns],
            counts: BTreeMap::new(),
        };
        for member in 0..APPLICATIONS * UNITS {
            let (application, index) = (member / UNITS, member % UNITS);
            let process = field.start(application, index, None);
            let (process, token, killed_ns) = (Some(process), None, Vec::new());
            field.members.push(Member { process, start_at_ns: 0, application, index, token, killed_ns });
        }
        field
    }

    fn start(&self, application: usize, index: usize, token: Option<u64>) -> Process {
        let task = json!({
            "unit": format!("app-{application}/{index}"), "token": token,
            "ingress": self.node.ingress_endpoints(), "aeron_dir": self.driver.directory,
        });
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["lease_chaos::unit_process", "--exact", "--nocapture"]).env(TASK, task.to_string());
        Process::start("a unit", &mut command)
    }

    /// Reads the messages of the units.
    fn listen(&mut self) {
        for member in 0..self.members.len() {
            let lines = self.members[member].process.as_mut().map_or_else(Vec::new, Process::lines_so_far);
            for line in lines {
                let Some(object) = line.find('{').and_then(|at| serde_json::from_str(&line[at..]).ok())
                else {
                    continue;
                };
                self.hear(member, &object);
            }
        }
    }

    fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    fn hear(&mut self, member: usize, said: &Value) {
        let (kind, token) = (said["kind"].as_str().unwrap(), said["token"].as_u64().unwrap());
        assert_ne!(kind, "violation", "a write of an old tenure was carried out: {said}");
        *self.counts.entry(kind.to_owned()).or_default() += 1;
        if kind != "leads" {
            return;
        }
        let member = &mut self.members[member];
        member.token = Some(token);
        let (now, until) = (said["now"].as_i64().unwrap(), said["until"].as_i64().unwrap());
        let tenure = Tenure { unit: member.index, first_ns: now, until_ns: until };
        let known = self.tenures[member.application].entry(token).or_insert(tenure);
        assert_eq!(known.unit, member.index, "two units have the token {token}");
        known.first_ns = known.first_ns.min(now);
        known.until_ns = known.until_ns.max(until);
    }

    /// Kills a unit, which restarts after `pause_ns`. Returns false when it is the only running one of its application.
    fn kill_unit(&mut self, member: usize, pause_ns: i64) -> bool {
        let first = member / UNITS * UNITS;
        let others = (first..first + UNITS).filter(|other| *other != member);
        if others.filter(|other| self.members[*other].process.is_some()).count() == 0 {
            return false;
        }
        let Some(process) = &mut self.members[member].process else { return false };
        process.kill();
        self.listen();
        let now_ns = SystemClock.now().ns;
        let unit = &mut self.members[member];
        unit.process = None;
        unit.killed_ns.push(now_ns);
        unit.start_at_ns = now_ns + pause_ns;
        true
    }

    /// Starts the units whose pause has ended.
    fn start_units(&mut self, now_ns: i64) {
        for member in 0..self.members.len() {
            let unit = &self.members[member];
            if unit.process.is_none() && now_ns >= unit.start_at_ns {
                let process = self.start(unit.application, unit.index, unit.token);
                self.members[member].process = Some(process);
            }
        }
    }

    fn kill_node(&mut self) {
        self.node.process.kill();
        self.node.restart();
        self.ready_ns.push(SystemClock.now().ns);
    }

    /// Checks all tenures; returns the number of take-overs and the longest one, ns.
    fn judge(&self, limit_ns: i64) -> (usize, i64) {
        let (mut count, mut longest_ns) = (0, 0);
        for (application, tenures) in self.tenures.iter().enumerate() {
            for (before, after) in tenures.values().zip(tenures.values().skip(1)) {
                // The same unit may lead again with a later token; two units must never lead at the same time.
                let overlap_ns = before.until_ns - after.first_ns;
                assert!(
                    before.unit == after.unit || overlap_ns <= 0,
                    "app-{application}: both led for {overlap_ns} ns"
                );
                let late_ns = after.first_ns - self.expiry_ns(application, before, after.first_ns);
                assert!(
                    late_ns <= limit_ns,
                    "app-{application}: taken over {late_ns} ns after the lease was over"
                );
                count += 1;
                longest_ns = longest_ns.max(late_ns);
            }
        }
        (count, longest_ns)
    }

    /// Latest time before `end_ns` at which a lease can have ended. Its holder's last claim may have been granted
    /// without an answer, and each restart of the node begins a term that extends the lease.
    fn expiry_ns(&self, application: usize, tenure: &Tenure, end_ns: i64) -> i64 {
        let holder = &self.members[application * UNITS + tenure.unit];
        let events = holder.killed_ns.iter().chain(&self.ready_ns).filter(|at| **at < end_ns);
        events.map(|at| at + LEASE_NS).max().unwrap_or(0).max(tenure.until_ns + LEASE_NS - 2 * DURATION_NS)
    }
}

#[test]
fn at_most_one_unit_leads_while_units_and_the_node_are_killed() {
    let asked: Option<i64> = std::env::var("HARRIER_CHAOS_SECONDS").ok().map(|text| text.parse().unwrap());
    // Other tests may occupy the processor.
    let (seconds, limit_ns) = asked.map_or((8, 10_000_000_000), |seconds| (seconds, 1_000_000_000));
    let mut field = Field::new();
    crate::support::until("leaders of all", || {
        field.listen();
        field.tenures.iter().all(|tenures| !tenures.is_empty()).then_some(())
    });
    let mut draws = Rng::new(1);
    let begin_ns = SystemClock.now().ns;
    let (mut next_unit_ns, mut next_node_ns) = (begin_ns, begin_ns + 2_000_000_000);
    let (mut unit_kills, mut node_kills) = (0, 0);
    let end_ns = begin_ns + seconds * 1_000_000_000;
    loop {
        field.listen();
        let now_ns = SystemClock.now().ns;
        // Until at least one restarted unit was too late.
        if now_ns >= end_ns && (field.count("refused") > 0 || now_ns >= end_ns + PATIENCE_NS) {
            break;
        }
        field.start_units(now_ns);
        if now_ns >= next_unit_ns {
            next_unit_ns = now_ns + 100_000_000 + draws.below(300_000_000) as i64;
            let pause_ns = draws.below(3 * LEASE_NS as u64) as i64;
            unit_kills +=
                i32::from(field.kill_unit(draws.below((APPLICATIONS * UNITS) as u64) as usize, pause_ns));
        }
        if now_ns >= next_node_ns {
            next_node_ns = now_ns + 3_000_000_000 + draws.below(5_000_000_000) as i64;
            field.kill_node();
            node_kills += 1;
        }
        rest();
    }
    // Every application leads again, and the last messages arrive.
    let end_ns = SystemClock.now().ns;
    crate::support::until("leaders after the end", || {
        field.listen();
        let leads = |tenures: &BTreeMap<u64, Tenure>| {
            tenures.values().any(|tenure| tenure.until_ns > end_ns + LEASE_NS)
        };
        field.tenures.iter().all(leads).then_some(())
    });
    let (takeovers, longest_ns) = field.judge(limit_ns);
    let lasted_s = (end_ns - begin_ns) / 1_000_000_000;
    println!(
        "{lasted_s} s, {unit_kills} units and {node_kills} nodes killed: {takeovers} take-overs, the longest {} ms after the lease was over; \
         {} writes, {} refused to old tenures",
        longest_ns / 1_000_000,
        field.count("written"),
        field.count("refused") + field.count("deposed"),
    );
    assert!(takeovers > 0 && field.count("written") > 0 && field.count("refused") > 0, "{:?}", field.counts);
    for process in field.members.iter_mut().filter_map(|member| member.process.as_mut()) {
        process.kill();
    }
}
