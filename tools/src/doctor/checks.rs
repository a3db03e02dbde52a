//! Rules: the cost of each property of a host.

use harrier::platform::HostFacts;

use crate::print::bytes;

/// Load that is meant to run on the host.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Number of threads that spin.
    pub busy_threads: usize,
    /// Length of a socket's buffers, bytes.
    pub socket_buffer_bytes: u64,
    /// Length of Aeron directories, bytes.
    pub shared_memory_bytes: u64,
}

/// Outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The property costs nothing.
    Fine {
        /// Value that was found.
        seen: String,
    },
    /// The property costs latency.
    Finding {
        /// Value that was found.
        seen: String,
        /// What to do.
        mend: String,
    },
    /// The host does not show the property.
    Unknown,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Section of tuning.md.
    pub anchor: &'static str,
    /// Name of the check.
    pub title: &'static str,
    /// Cost of a finding.
    pub cost: &'static str,
    /// Outcome of the check.
    pub outcome: Outcome,
}

fn fine(seen: impl Into<String>) -> Outcome {
    Outcome::Fine { seen: seen.into() }
}

fn finding(seen: impl Into<String>, mend: impl Into<String>) -> Outcome {
    Outcome::Finding { seen: seen.into(), mend: mend.into() }
}

/// Exit latency from which an idle state is a finding, µs.
const MAX_EXIT_LATENCY_US: u64 = 10;
/// Number of files that a process with a driver, clients and recordings opens, approximately.
const MIN_OPEN_FILES: u64 = 4_096;
/// Stolen time that is more than noise, in thousandths.
const MAX_STOLEN_PER_MILLE: f64 = 1.0;

/// A rule: section of tuning.md, title, cost of a finding, and the check itself.
type Rule = (&'static str, &'static str, &'static str, fn(&HostFacts, &Wishes) -> Outcome);

const RULES: [Rule; 19] = [
    (
        "cores-for-busy-threads",
        "Cores for busy threads",
        "threads that spin on a shared core starve each other for milliseconds",
        cores,
    ),
    (
        "cpu-governor",
        "CPU governor",
        "cores clock down while idle and take 10 to 100 µs to speed up",
        governor,
    ),
    (
        "idle-states",
        "Idle states",
        "a core that sleeps deeply wakes up too late for the message",
        idle_states,
    ),
    (
        "smt-siblings",
        "SMT siblings",
        "two threads share the units of one physical core: up to half its speed",
        smt,
    ),
    (
        "isolated-cores",
        "Isolated cores",
        "the scheduler puts other threads on the busy cores: pauses of milliseconds",
        isolated,
    ),
    (
        "tickless-cores",
        "Tickless cores",
        "the timer tick interrupts busy threads up to 1000 times a second",
        tickless,
    ),
    (
        "interrupt-affinity",
        "Interrupt affinity",
        "interrupts are served on cores that should only spin",
        interrupts,
    ),
    ("numa-nodes", "NUMA nodes", "shared memory on another node doubles the time of every cache miss", numa),
    (
        "transparent-huge-pages",
        "Transparent huge pages",
        "the kernel compacts memory under the process: pauses of milliseconds",
        huge_pages,
    ),
    ("swap", "Swap", "a page that was swapped out takes milliseconds to come back", swap),
    (
        "shared-memory",
        "Shared memory",
        "term buffers do not fit: publications are refused, or go to a disk",
        shared_memory,
    ),
    ("locked-memory", "Locked memory", "buffers cannot be pinned, and may be paged out", locked_memory),
    ("open-files", "Open files", "streams and segments are refused once the files run out", open_files),
    (
        "socket-receive-buffers",
        "Socket receive buffers",
        "bursts overflow the socket: losses and retransmits",
        receive_buffers,
    ),
    ("socket-send-buffers", "Socket send buffers", "the sender is held up at every burst", send_buffers),
    (
        "clock-source",
        "Clock source",
        "every reading of the time is a system call or a slow device",
        clock_source,
    ),
    (
        "kernel-mitigations",
        "Kernel mitigations",
        "system calls, one for each batch of datagrams, take up to twice as long",
        mitigations,
    ),
    (
        "virtual-machine",
        "Virtual machine",
        "exits to the hypervisor pause cores at any time; caches are shared",
        virtual_machine,
    ),
    ("stolen-time", "Stolen time", "the hypervisor runs others on these cores", stolen_time),
];

/// Compares the properties of the host with what is known to cost latency.
pub fn examine(facts: &HostFacts, wishes: &Wishes) -> Vec<Check> {
    RULES
        .iter()
        .map(|(anchor, title, cost, judge)| Check { anchor, title, cost, outcome: judge(facts, wishes) })
        .collect()
}

fn cores(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    let (count, busy) = (facts.cores.len(), wishes.busy_threads);
    if count == 0 {
        return Outcome::Unknown;
    }
    let seen = format!("{count} cores for {busy} busy threads and the rest of the host");
    if count > busy {
        return fine(seen);
    }
    finding(seen, "harrier node --layout fused --idle yield, fewer clients, or a host with more cores")
}

fn governor(facts: &HostFacts, _: &Wishes) -> Outcome {
    let known: Vec<_> =
        facts.cores.iter().filter_map(|core| Some((core.id, core.governor.as_deref()?))).collect();
    let slow: Vec<_> = known.iter().filter(|(_, governor)| *governor != "performance").collect();
    match (known.first(), slow.first()) {
        (None, _) => Outcome::Unknown,
        (_, None) => fine("performance on all cores"),
        (_, Some((id, name))) => finding(
            format!("{} of {} cores are not at performance (cpu{id}: {name})", slow.len(), known.len()),
            "cpupower frequency-set -g performance",
        ),
    }
}

fn idle_states(facts: &HostFacts, _: &Wishes) -> Outcome {
    let Some(deepest) = facts.idle_states.iter().max_by_key(|state| state.exit_latency_us) else {
        return Outcome::Unknown;
    };
    let seen = format!("deepest is {} with {} µs to wake up", deepest.name, deepest.exit_latency_us);
    if deepest.exit_latency_us <= MAX_EXIT_LATENCY_US {
        return fine(seen);
    }
    finding(seen, "boot with intel_idle.max_cstate=1 processor.max_cstate=1, or cpupower idle-set -D 10")
}

fn smt(facts: &HostFacts, _: &Wishes) -> Outcome {
    if facts.cores.iter().all(|core| core.siblings.is_empty()) {
        return Outcome::Unknown;
    }
    match facts.cores.iter().find(|core| core.siblings.len() > 1) {
        None => fine("each core is a physical core"),
        Some(core) => finding(
            format!("cpu{} shares its physical core: {:?}", core.id, core.siblings),
            "pin one busy thread to each pair and leave its sibling idle, or echo off > /sys/devices/system/cpu/smt/control",
        ),
    }
}

fn isolated(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    if facts.cores.is_empty() {
        return Outcome::Unknown;
    }
    let seen = format!("{} of {} cores are isolated", facts.isolated.len(), facts.cores.len());
    if facts.isolated.len() >= wishes.busy_threads {
        return fine(seen);
    }
    finding(
        seen,
        "boot with isolcpus=managed_irq,domain,2-5 and start the busy processes with taskset -c 2-5",
    )
}

fn tickless(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    if facts.cores.is_empty() {
        return Outcome::Unknown;
    }
    let seen = format!("{} of {} cores run without a tick", facts.tickless.len(), facts.cores.len());
    if facts.tickless.len() >= wishes.busy_threads {
        return fine(seen);
    }
    finding(seen, "boot with nohz_full=2-5 rcu_nocbs=2-5")
}

fn interrupts(facts: &HostFacts, _: &Wishes) -> Outcome {
    if facts.interrupts.is_empty() {
        return Outcome::Unknown;
    }
    if facts.isolated.is_empty() {
        return Outcome::Unknown;
    }
    let disturbs = |cores: &[usize]| cores.iter().any(|core| facts.isolated.contains(core));
    let disturbing: Vec<String> = facts
        .interrupts
        .iter()
        .filter(|interrupt| disturbs(&interrupt.cores))
        .map(|core| core.number.to_string())
        .collect();
    if disturbing.is_empty() {
        return fine("none is served on an isolated core");
    }
    let shown = disturbing.len().min(8);
    finding(
        format!("{} are served on isolated cores: {}", disturbing.len(), disturbing[..shown].join(" ")),
        "echo 0-1 > /proc/irq/N/smp_affinity_list for each, and stop irqbalance",
    )
}

fn numa(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.numa_node_count {
        None => Outcome::Unknown,
        Some(0 | 1) => fine("one memory node"),
        Some(count) => finding(
            format!("{count} memory nodes"),
            "numactl --cpunodebind=0 --membind=0 for all processes of a node, on the network card's node",
        ),
    }
}

fn huge_pages(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.transparent_huge_pages.as_deref() {
        None => Outcome::Unknown,
        Some("always") => finding("always", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        Some(policy) => fine(policy),
    }
}

fn swap(facts: &HostFacts, _: &Wishes) -> Outcome {
    match (facts.swap_bytes, facts.swappiness) {
        (None, _) => Outcome::Unknown,
        (Some(0), _) => fine("none"),
        (Some(size), Some(0)) => fine(format!("{}, swappiness 0", bytes(size as i64))),
        (Some(size), swappiness) => {
            let eagerness = swappiness.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
            finding(
                format!("{}, swappiness {eagerness}", bytes(size as i64)),
                "sysctl -w vm.swappiness=0, or swapoff -a",
            )
        }
    }
}

fn shared_memory(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    let Some((usable, total)) = facts.shared_memory else { return Outcome::Unknown };
    let seen = format!("{} of {} usable in /dev/shm", bytes(usable as i64), bytes(total as i64));
    if usable >= wishes.shared_memory_bytes {
        return fine(seen);
    }
    let wanted = wishes.shared_memory_bytes + (total - usable.min(total));
    finding(seen, format!("mount -o remount,size={wanted} /dev/shm"))
}

fn locked_memory(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    match facts.locked_memory_max {
        None => Outcome::Unknown,
        Some(u64::MAX) => fine("no limit"),
        Some(limit) if limit >= wishes.shared_memory_bytes => fine(bytes(limit as i64)),
        Some(limit) => finding(
            format!("a process may lock {}", bytes(limit as i64)),
            "ulimit -l unlimited, or memlock unlimited in /etc/security/limits.conf",
        ),
    }
}

fn open_files(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.open_files_max {
        None => Outcome::Unknown,
        Some(u64::MAX) => fine("no limit"),
        Some(limit) if limit >= MIN_OPEN_FILES => fine(limit.to_string()),
        Some(limit) => finding(
            format!("a process may open {limit}"),
            "ulimit -n 65536, or nofile in /etc/security/limits.conf",
        ),
    }
}

fn receive_buffers(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    buffers(facts.receive_buffer_max, "rmem_max", wishes.socket_buffer_bytes)
}

fn send_buffers(facts: &HostFacts, wishes: &Wishes) -> Outcome {
    buffers(facts.send_buffer_max, "wmem_max", wishes.socket_buffer_bytes)
}

fn buffers(limit: Option<u64>, name: &str, wanted: u64) -> Outcome {
    match limit {
        None => Outcome::Unknown,
        Some(limit) if limit >= wanted => fine(format!("net.core.{name}={limit}")),
        Some(limit) => finding(
            format!("net.core.{name}={limit}, sockets want {wanted}"),
            format!("sysctl -w net.core.{name}={wanted}"),
        ),
    }
}

fn clock_source(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.clock_source.as_deref() {
        None => Outcome::Unknown,
        // These clocks are read without a system call.
        Some(source @ ("tsc" | "arch_sys_counter" | "kvm-clock" | "hyperv_clocksource_tsc_page")) => {
            fine(source)
        }
        Some(source) => finding(
            source,
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, or boot with tsc=reliable",
        ),
    }
}

fn mitigations(facts: &HostFacts, _: &Wishes) -> Outcome {
    if facts.mitigations.is_empty() {
        return if facts.cores.is_empty() { Outcome::Unknown } else { fine("none active") };
    }
    finding(
        facts.mitigations.join(" "),
        "boot with mitigations=off where every process on the host is trusted",
    )
}

fn virtual_machine(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.is_virtual {
        None => Outcome::Unknown,
        Some(false) => fine("bare metal"),
        Some(true) => finding("yes", "bare metal, or dedicated cores that the hypervisor pins"),
    }
}

fn stolen_time(facts: &HostFacts, _: &Wishes) -> Outcome {
    match facts.stolen_per_mille {
        None => Outcome::Unknown,
        Some(share) if share <= MAX_STOLEN_PER_MILLE => {
            fine(format!("{:.2} % since the start", share / 10.0))
        }
        Some(share) => finding(
            format!("{:.2} % since the start", share / 10.0),
            "a machine whose cores are not shared; ask the provider for dedicated ones",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier::platform::{CoreFacts, IdleState, Interrupt};

    const WISHES: Wishes =
        Wishes { busy_threads: 2, socket_buffer_bytes: 2 << 20, shared_memory_bytes: 1 << 30 };

    fn tuned() -> HostFacts {
        let core = |id| CoreFacts { id, governor: Some("performance".into()), siblings: vec![id] };
        HostFacts {
            cores: (0..4).map(core).collect(),
            isolated: vec![2, 3],
            tickless: vec![2, 3],
            transparent_huge_pages: Some("madvise".into()),
            swap_bytes: Some(0),
            swappiness: Some(60),
            shared_memory: Some((4 << 30, 8 << 30)),
            receive_buffer_max: Some(4 << 20),
            send_buffer_max: Some(4 << 20),
            clock_source: Some("tsc".into()),
            locked_memory_max: Some(u64::MAX),
            open_files_max: Some(65_536),
            interrupts: vec![Interrupt { number: 9, cores: vec![0, 1] }],
            idle_states: vec![IdleState { name: "C1".into(), exit_latency_us: 2 }],
            numa_node_count: Some(1),
            mitigations: Vec::new(),
            is_virtual: Some(false),
            stolen_per_mille: Some(0.0),
        }
    }

    fn found(change: impl FnOnce(&mut HostFacts)) -> Vec<&'static str> {
        let mut facts = tuned();
        change(&mut facts);
        let checks = examine(&facts, &WISHES);
        checks
            .iter()
            .filter(|check| matches!(check.outcome, Outcome::Finding { .. }))
            .map(|check| check.anchor)
            .collect()
    }

    #[test]
    fn a_tuned_host_has_no_findings_and_nothing_unknown() {
        let checks = examine(&tuned(), &WISHES);
        assert!(checks.iter().all(|check| matches!(check.outcome, Outcome::Fine { .. })), "{checks:?}");
    }

    #[test]
    fn each_fact_that_costs_is_found() {
        assert_eq!(found(|facts| facts.cores.truncate(2)), ["cores-for-busy-threads"]);
        assert_eq!(found(|facts| facts.cores[1].governor = Some("powersave".into())), ["cpu-governor"]);
        assert_eq!(found(|facts| facts.idle_states[0].exit_latency_us = 11), ["idle-states"]);
        assert_eq!(found(|facts| facts.cores[3].siblings = vec![1, 3]), ["smt-siblings"]);
        assert_eq!(found(|facts| facts.isolated.clear()), ["isolated-cores"]);
        assert_eq!(found(|facts| facts.tickless.clear()), ["tickless-cores"]);
        assert_eq!(found(|facts| facts.interrupts[0].cores = vec![3]), ["interrupt-affinity"]);
        assert_eq!(found(|facts| facts.numa_node_count = Some(2)), ["numa-nodes"]);
        assert_eq!(
            found(|facts| facts.transparent_huge_pages = Some("always".into())),
            ["transparent-huge-pages"]
        );
        assert_eq!(found(|facts| facts.swap_bytes = Some(1)), ["swap"]);
        assert_eq!(found(|facts| facts.shared_memory = Some((1, 1 << 30))), ["shared-memory"]);
        assert_eq!(found(|facts| facts.locked_memory_max = Some(8 << 20)), ["locked-memory"]);
        assert_eq!(found(|facts| facts.open_files_max = Some(1_024)), ["open-files"]);
        assert_eq!(found(|facts| facts.receive_buffer_max = Some(212_992)), ["socket-receive-buffers"]);
        assert_eq!(found(|facts| facts.send_buffer_max = Some(212_992)), ["socket-send-buffers"]);
        assert_eq!(found(|facts| facts.clock_source = Some("hpet".into())), ["clock-source"]);
        assert_eq!(found(|facts| facts.mitigations.push("meltdown".into())), ["kernel-mitigations"]);
        assert_eq!(found(|facts| facts.is_virtual = Some(true)), ["virtual-machine"]);
        assert_eq!(found(|facts| facts.stolen_per_mille = Some(1.1)), ["stolen-time"]);
    }
}
