//! Facts that tell one process from all others.

use std::io;

/// Facts about a process of this host.
///
/// ```
/// use harrier_platform::ProcessFacts;
///
/// let own = ProcessFacts::of(std::process::id()).unwrap();
/// assert_eq!(own, ProcessFacts::of(std::process::id()).unwrap());
/// assert!(own.started_ms > 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Process id.
    pub pid: u32,
    /// Name of the host.
    pub host: String,
    /// Time when the process started, ms since the Unix epoch, with a resolution of 10 ms.
    pub started_ms: i64,
    /// Hash of boot id, process id namespace, host name, process id and start. Two processes of any hosts have equal
    /// hashes only by accident, once in 2^64 pairs.
    pub id: u64,
}

impl ProcessFacts {
    /// Reads the facts of the process with an id.
    ///
    /// # Errors
    /// No such process, or `/proc` is not mounted or does not have the expected form.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path);
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let ticks = start_ticks(&stat).ok_or_else(|| invalid("/proc/PID/stat"))?;
        let boot_seconds = boot_seconds(&read("/proc/stat")?).ok_or_else(|| invalid("/proc/stat"))?;
        let host = read("/proc/sys/kernel/hostname")?.trim().to_owned();
        let boot_id = read("/proc/sys/kernel/random/boot_id")?;
        // Process ids are those of this process's namespace, whoever owns the other process.
        let namespace = std::fs::read_link("/proc/self/ns/pid")?;
        let text = format!("{} {} {host} {pid} {ticks}", boot_id.trim(), namespace.display());
        let started_ms = boot_seconds * 1_000 + ticks * 1_000 / ticks_per_second();
        Ok(Self { pid, host, started_ms, id: fnv1a(text.as_bytes()) })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} does not have the expected form"))
}

/// Start of a process in clock ticks since the host's start: field 22 of its `stat`. The second field is the program's
/// name in parentheses, which may contain blanks and parentheses.
fn start_ticks(stat: &str) -> Option<i64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Start of the host, seconds since the Unix epoch.
fn boot_seconds(stat: &str) -> Option<i64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn ticks_per_second() -> i64 {
    // SAFETY: sysconf reads a constant of the system and takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks.max(1)
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_start() {
        let fields = (3..=30).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("17 (a) b (c) {fields}")), Some(22));
        assert_eq!(start_ticks("17 (short) R 1"), None);
        assert_eq!(boot_seconds("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[test]
    fn processes_differ() {
        let own = ProcessFacts::of(std::process::id()).unwrap();
        // Waits for its standard input, which ends with this process at the latest.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let other = ProcessFacts::of(child.id()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_ne!(own.id, other.id);
        assert!(other.started_ms >= own.started_ms);
        assert!(ProcessFacts::of(u32::MAX).is_err());
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
    }
}
