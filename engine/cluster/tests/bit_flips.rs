//! One flipped bit in any file of a node: the node starts in the same state or refuses to start. It never starts in
//! another state, hangs or panics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harrier_archive::tool::ArchiveFiles;
use harrier_platform::{FileStorage, PausingClock};
use harrier_ringbuf::{Clock, Rng};

use crate::rig::{Node, PATIENCE_NS, Plan, counter, directory, ports, value};

/// Number of flips per test.
const FLIPS: usize = 150;
/// Length of the part of long files that is not zero.
const HEAD: u64 = 8_192;

/// Outcome of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Count and hash of the service, and the messages of a snapshot of the consensus module.
    State((u64, u64), Vec<Vec<u8>>),
    Refused(String),
}

fn plan() -> Plan {
    Plan { is_stamped: true, ..Plan::default() }
}

/// A node after two runs, with two snapshots and messages after them, that was stopped cleanly.
fn base(directory: &Path, ports: &[u16]) {
    for life in 0..2 {
        let mut node = Node::start(directory, ports, &plan());
        node.until_leading();
        let client = node.connect(ports[0]);
        for number in 0..15 {
            node.exchange(client, &format!("life {life} message {number}"));
        }
        node.exchange(client, &"long ".repeat(800));
        node.send(client, &format!("timer {life} 100000000"));
        node.exchange(client, "the timer is set");
        node.take_snapshot();
        for number in 0..15 {
            node.exchange(client, &format!("life {life} behind the snapshot {number}"));
        }
        drop(std::mem::take(&mut node.clients));
        node.stop();
    }
}

fn copy(from: &Path, to: &Path) {
    for part in ["archive", "cluster"] {
        std::fs::create_dir_all(to.join(part)).unwrap();
        for entry in std::fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Works until a condition holds. Returns the error if a part ends first.
fn until(node: &mut Node, what: &str, condition: impl Fn(&Node) -> bool) -> Result<(), String> {
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    loop {
        node.step();
        if let Some(error) = node.errors.borrow().first() {
            return Err(error.clone());
        }
        if condition(node) {
            return Ok(());
        }
        assert!(PausingClock.now().ns < deadline_ns, "hang: {what} did not come; seen {:?}", node.seen());
    }
}

/// Messages of the latest snapshot of the consensus module.
fn module_snapshot(directory: &Path, node: &Node) -> Vec<Vec<u8>> {
    let entries = node.entries();
    let id = entries.iter().rfind(|entry| entry.is_module_snapshot()).unwrap().recording_id;
    let mut messages = Vec::new();
    let mut files = ArchiveFiles::open(&directory.join("archive"), FileStorage::inline()).unwrap();
    files
        .for_each_frame(id, &mut |frame| {
            messages.push(frame.payload.to_vec());
            true
        })
        .unwrap();
    messages
}

fn lead(node: &mut Node, directory: &Path) -> Result<Outcome, String> {
    until(node, "leadership", |node| {
        node.is_at(counter::STATE, value::ACTIVE) && node.is_at(counter::TOGGLE, value::NEUTRAL)
    })?;
    node.set(counter::TOGGLE, value::SNAPSHOT);
    until(node, "the snapshot", |node| node.is_at(counter::SNAPSHOTS, 1))?;
    until(node, "the module's rest", |node| node.is_at(counter::TOGGLE, value::NEUTRAL))?;
    Ok(Outcome::State(node.state.get(), module_snapshot(directory, node)))
}

fn start(directory: &Path, ports: &[u16]) -> Outcome {
    let mut node = match Node::try_start(directory, ports, &plan()) {
        Ok(node) => node,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let outcome = lead(&mut node, directory).unwrap_or_else(Outcome::Refused);
    node.kill();
    outcome
}

/// All files with content, relative to the directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for part in ["archive", "cluster"] {
        for entry in std::fs::read_dir(directory.join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().len() > 0 {
                all.push(Path::new(part).join(entry.file_name()));
            }
        }
    }
    all.sort();
    all
}

/// Length of the used part of a file, bytes.
fn used(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1)
}

fn flip_and_start(seed: u64) {
    let (home, ports) = (directory(), ports());
    base(home.path(), &ports);
    let all = files(home.path());
    let kinds = [
        ".rec",
        ".seal",
        "archive.catalog",
        "archive-mark",
        "recording.log",
        "node-state",
        "cluster-mark-service",
    ];
    for kind in kinds {
        assert!(all.iter().any(|path| path.to_str().unwrap().contains(kind)), "{kind} in {all:?}");
    }
    let work = directory();
    copy(home.path(), work.path());
    let expected = start(work.path(), &ports);
    assert!(matches!(&expected, Outcome::State((count, _), _) if *count > 60), "{expected:?}");
    let mut rng = Rng::new(seed);
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..FLIPS {
        let name = &all[number % all.len()];
        let work = directory();
        copy(home.path(), work.path());
        let path = work.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        // Three of four flips are in the content, the others anywhere.
        let limit = match number / all.len() % 4 {
            0 => bytes.len() as u64,
            1 => used(&bytes).min(HEAD),
            _ => used(&bytes),
        };
        let (at, bit) = ((rng.next_u64() % limit) as usize, rng.next_u64() % 8);
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        let outcome = start(work.path(), &ports);
        let place = format!("seed {seed}, flip {number}: bit {bit} of byte {at} of {}", name.display());
        match &outcome {
            Outcome::Refused(text) => {
                assert!(!text.contains("panicked"), "{place}: {text}");
                *tally.entry("refused").or_default() += 1;
            }
            state => {
                assert!(*state == expected, "{place}: another state\n{state:?}\n{expected:?}");
                *tally.entry("same state").or_default() += 1;
            }
        }
    }
    // Both outcomes must be frequent for a meaningful test.
    assert!(tally.values().all(|count| *count > FLIPS / 10) && tally.len() == 2, "{tally:?}");
}

#[test]
fn a_flipped_bit_is_refused_or_does_nothing_a() {
    flip_and_start(1);
}

#[test]
fn a_flipped_bit_is_refused_or_does_nothing_b() {
    flip_and_start(2);
}

#[test]
fn a_flipped_bit_is_refused_or_does_nothing_c() {
    flip_and_start(3);
}

#[test]
fn a_flipped_bit_is_refused_or_does_nothing_d() {
    flip_and_start(4);
}
