//! Properties of the host that affect latency, for `harrier doctor`. They are read from /proc and /sys; nothing is
//! changed.

use std::fs;
use std::path::{Path, PathBuf};

/// A core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreFacts {
    /// Number of the core.
    pub id: usize,
    /// Governor of its clock; `None` where the system does not say.
    pub governor: Option<String>,
    /// Cores that share the physical core, itself included.
    pub siblings: Vec<usize>,
}

/// A state in which an idle core sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleState {
    /// Name of the state, e.g. `C6`.
    pub name: String,
    /// Time to wake up from it, µs.
    pub exit_latency_us: u64,
}

/// An interrupt and the cores that may serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// Number of the interrupt.
    pub number: u32,
    /// Cores that serve the interrupt.
    pub cores: Vec<usize>,
}

/// Properties of the host; a property is absent where the host does not show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    /// Cores that are online.
    pub cores: Vec<CoreFacts>,
    /// Cores that the scheduler does not use by itself.
    pub isolated: Vec<usize>,
    /// Cores without a periodic tick.
    pub tickless: Vec<usize>,
    /// Policy of transparent huge pages.
    pub transparent_huge_pages: Option<String>,
    /// Swap space, bytes.
    pub swap_bytes: Option<u64>,
    /// Tendency of the kernel to swap (`vm.swappiness`).
    pub swappiness: Option<u64>,
    /// Usable and total bytes of /dev/shm.
    pub shared_memory: Option<(u64, u64)>,
    /// Longest receive buffer of a socket, bytes.
    pub receive_buffer_max: Option<u64>,
    /// Longest send buffer of a socket, bytes.
    pub send_buffer_max: Option<u64>,
    /// Clock that the kernel reads.
    pub clock_source: Option<String>,
    /// Bytes that a process may lock in memory; `u64::MAX` without a limit.
    pub locked_memory_max: Option<u64>,
    /// Number of files that a process may open; `u64::MAX` without a limit.
    pub open_files_max: Option<u64>,
    /// Interrupts.
    pub interrupts: Vec<Interrupt>,
    /// Enabled idle states of the first core.
    pub idle_states: Vec<IdleState>,
    /// Number of memory nodes.
    pub numa_node_count: Option<usize>,
    /// Names of processor faults that the kernel mitigates.
    pub mitigations: Vec<String>,
    /// True on a virtual machine.
    pub is_virtual: Option<bool>,
    /// Time since the start that the hypervisor gave to others, in thousandths of all time.
    pub stolen_per_mille: Option<f64>,
}

/// Ticks of all cores since the start.
struct StolenTime {
    stolen: u64,
    total: u64,
}

fn text(path: PathBuf) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: PathBuf) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Parses a list such as `0-3,8`; returns an empty one for other text.
fn list(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
            && last < first + 65_536
        {
            all.extend(first..=last);
        }
    }
    all
}

/// Returns the names in a directory, sorted; none when there is no directory.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

impl HostFacts {
    /// Reads the properties below a root directory: `/`, or a directory that a test has prepared.
    pub fn read(root: &Path) -> Self {
        let cpu = root.join("sys/devices/system/cpu");
        let sysctl = root.join("proc/sys");
        let online = text(cpu.join("online")).map(|text| list(&text)).unwrap_or_default();
        let limits = text(root.join("proc/self/limits"));
        let limit = |name: &str| limits.as_deref().and_then(|text| soft_limit(text, name));
        Self {
            cores: online.iter().map(|id| core(&cpu, *id)).collect(),
            isolated: text(cpu.join("isolated")).map(|text| list(&text)).unwrap_or_default(),
            tickless: text(cpu.join("nohz_full")).map(|text| list(&text)).unwrap_or_default(),
            transparent_huge_pages: text(root.join("sys/kernel/mm/transparent_hugepage/enabled"))
                .and_then(|text| chosen(&text)),
            swap_bytes: text(root.join("proc/meminfo")).and_then(|text| swap_bytes(&text)),
            swappiness: number(sysctl.join("vm/swappiness")),
            shared_memory: crate::mapped_memory::space(&root.join("dev/shm")).ok(),
            receive_buffer_max: number(sysctl.join("net/core/rmem_max")),
            send_buffer_max: number(sysctl.join("net/core/wmem_max")),
            clock_source: text(root.join("sys/devices/system/clocksource/clocksource0/current_clocksource")),
            locked_memory_max: limit("Max locked memory"),
            open_files_max: limit("Max open files"),
            interrupts: interrupts(&root.join("proc/irq")),
            idle_states: idle_states(&cpu.join("cpu0/cpuidle")),
            numa_node_count: text(root.join("sys/devices/system/node/online")).map(|text| list(&text).len()),
            mitigations: mitigations(&cpu.join("vulnerabilities")),
            is_virtual: text(root.join("proc/cpuinfo")).map(|text| has_flag(&text, "hypervisor")),
            stolen_per_mille: text(root.join("proc/stat"))
                .and_then(|text| stolen(&text))
                .map(|time| time.stolen as f64 * 1_000.0 / time.total.max(1) as f64),
        }
    }
}

fn core(cpu: &Path, id: usize) -> CoreFacts {
    let folder = cpu.join(format!("cpu{id}"));
    CoreFacts {
        id,
        governor: text(folder.join("cpufreq/scaling_governor")),
        siblings: text(folder.join("topology/thread_siblings_list"))
            .map(|text| list(&text))
            .unwrap_or_default(),
    }
}

/// Returns the word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

fn swap_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1_024)
}

/// Returns the soft limit of a line like `Max open files   1024   4096   files`.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        value => value.parse().ok(),
    }
}

fn interrupts(path: &Path) -> Vec<Interrupt> {
    let mut all: Vec<Interrupt> = names(path)
        .iter()
        .filter_map(|name| {
            let number = name.parse().ok()?;
            let folder = path.join(name);
            // Cores that serve the interrupt now; older kernels show only the cores that may.
            let cores = text(folder.join("effective_affinity_list"))
                .filter(|text| !text.is_empty())
                .or_else(|| text(folder.join("smp_affinity_list")))?;
            Some(Interrupt { number, cores: list(&cores) })
        })
        .collect();
    all.sort_unstable_by_key(|interrupt| interrupt.number);
    all
}

fn idle_states(path: &Path) -> Vec<IdleState> {
    names(path)
        .iter()
        .filter(|name| name.starts_with("state"))
        .filter_map(|name| {
            let folder = path.join(name);
            if number(folder.join("disable")).unwrap_or(0) != 0 {
                return None;
            }
            Some(IdleState {
                name: text(folder.join("name"))?,
                exit_latency_us: number(folder.join("latency"))?,
            })
        })
        .collect()
}

fn mitigations(path: &Path) -> Vec<String> {
    let is_mitigated =
        |name: &String| text(path.join(name)).is_some_and(|text| text.starts_with("Mitigation"));
    names(path).into_iter().filter(is_mitigated).collect()
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    flags.is_some_and(|line| line.split_whitespace().any(|word| word == flag))
}

/// Parses the first line of /proc/stat: user nice system idle iowait irq softirq steal.
fn stolen(stat: &str) -> Option<StolenTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // User time contains guest time already.
    let total = ticks.iter().take(8).sum();
    Some(StolenTime { stolen: *ticks.get(7)?, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn a_host_is_read_from_its_files() {
        let cpu = "sys/devices/system/cpu";
        let file = |name: &str| format!("{cpu}/{name}");
        let names = [
            file("online"),
            file("isolated"),
            file("nohz_full"),
            file("cpu0/cpufreq/scaling_governor"),
            file("cpu0/topology/thread_siblings_list"),
            file("cpu0/cpuidle/state0/name"),
            file("cpu0/cpuidle/state0/latency"),
            file("cpu0/cpuidle/state1/name"),
            file("cpu0/cpuidle/state1/latency"),
            file("cpu0/cpuidle/state1/disable"),
            file("vulnerabilities/meltdown"),
            file("vulnerabilities/l1tf"),
        ];
        let contents = [
            "0-3\n",
            "2-3\n",
            "(null)\n",
            "powersave\n",
            "0,2\n",
            "C1\n",
            "2\n",
            "C6\n",
            "133\n",
            "1\n",
            "Mitigation: PTI\n",
            "Not affected\n",
        ];
        let mut files: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(contents).collect();
        files.extend([
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("sys/devices/system/node/online", "0-1\n"),
            ("proc/meminfo", "MemTotal: 100 kB\nSwapTotal:      2048 kB\n"),
            ("proc/sys/vm/swappiness", "60\n"),
            ("proc/sys/net/core/rmem_max", "212992\n"),
            ("proc/self/limits", "Limit  Soft  Hard\nMax open files            1024   4096   files\nMax locked memory         unlimited unlimited bytes\n"),
            ("proc/irq/9/smp_affinity_list", "0-3\n"),
            ("proc/irq/11/smp_affinity_list", "0-3\n"),
            ("proc/irq/11/effective_affinity_list", "2\n"),
            ("proc/irq/default_smp_affinity", "f\n"),
            ("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\n"),
            ("proc/stat", "cpu  600 0 200 100 0 0 0 100 50 0\n"),
        ]);
        let root = root(&files);
        let facts = HostFacts::read(root.path());
        assert_eq!((facts.cores.len(), &facts.isolated[..], &facts.tickless[..]), (4, &[2, 3][..], &[][..]));
        assert_eq!(facts.cores[0].governor.as_deref(), Some("powersave"));
        assert_eq!((&facts.cores[0].siblings[..], facts.cores[1].governor.is_none()), (&[0, 2][..], true));
        assert_eq!(facts.idle_states, [IdleState { name: "C1".into(), exit_latency_us: 2 }]);
        assert_eq!((&facts.mitigations[..], facts.numa_node_count), (&["meltdown".to_owned()][..], Some(2)));
        assert_eq!(facts.transparent_huge_pages.as_deref(), Some("madvise"));
        assert_eq!((facts.swap_bytes, facts.swappiness), (Some(2_048 * 1_024), Some(60)));
        assert_eq!((facts.receive_buffer_max, facts.send_buffer_max), (Some(212_992), None));
        assert_eq!((facts.open_files_max, facts.locked_memory_max), (Some(1_024), Some(u64::MAX)));
        let interrupts: Vec<_> =
            facts.interrupts.iter().map(|interrupt| (interrupt.number, interrupt.cores.len())).collect();
        assert_eq!(interrupts, [(9, 4), (11, 1)]);
        assert_eq!((facts.is_virtual, facts.stolen_per_mille), (Some(true), Some(100.0)));
        assert_eq!(facts.shared_memory, None);
    }

    #[test]
    fn a_host_that_says_nothing_is_unknown() {
        let root = root(&[]);
        assert_eq!(HostFacts::read(root.path()), HostFacts::default());
    }

    #[test]
    fn lists_survive_nonsense() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list("(null)"), Vec::<usize>::new());
        assert_eq!(list("3-1,x-,-,9-99999999999"), Vec::<usize>::new());
    }
}
