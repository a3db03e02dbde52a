//! The driver as a process in every threading mode: streams flow, threads have their names and cores, and idle
//! strategies follow the settings (spec 02 §5.10). Errors of agents are logged, and the agents go on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::world::{Numbered, NumberedReader, free_address};
use harrier_client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier_driver::context::ThreadingMode;
use harrier_driver::system_counters::SystemCounter as C;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{MappedMemory, PausingClock, SystemClock};
use harrier_ringbuf::{AgentError, Clock};

const STREAM: i32 = 10;
/// Agents with their own idle strategy, by their names in settings.
const AGENTS: [&str; 5] = ["conductor", "sender", "receiver", "sharednetwork", "shared"];

/// A driver in a separate process, with a client.
struct Process {
    child: Child,
    client: Aeron,
    _directory: tempfile::TempDir,
}

impl Process {
    fn start(settings: &[String]) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-threads-").tempdir_in("/dev/shm").unwrap();
        let aeron = directory.path().join("aeron");
        let mut child = Command::new(env!("CARGO_BIN_EXE_harrier-driver"))
            .arg("--ready")
            .arg(format!("-Daeron.dir={}", aeron.display()))
            .args(["-Daeron.term.buffer.length=64k", "-Daeron.ipc.term.buffer.length=64k"])
            .args(settings.iter().map(|setting| format!("-Daeron.{setting}")))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"ready\":true"), "{settings:?}: {line}");
        let client = Aeron::connect(Context::new(aeron), MappedMemory, &SystemClock.now()).unwrap();
        Self { child, client, _directory: directory }
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + crate::world::PATIENCE_NS;
        while SystemClock.now().ns < deadline_ns {
            self.client.do_work(&SystemClock.now()).unwrap();
            if let Some(value) = condition(&mut self.client) {
                return value;
            }
            // The driver's threads and this one share the cores of the host.
            std::thread::yield_now();
        }
        panic!("{what} did not come");
    }

    fn stream(&mut self, channel: &str) -> (ExclusivePublication, Subscription) {
        let id = self.client.add_subscription(channel, STREAM).unwrap();
        let subscription = self.until("the subscription", |client| client.subscription(id).unwrap());
        let id = self.client.add_exclusive_publication(channel, STREAM).unwrap();
        (self.until("the publication", |client| client.exclusive_publication(id).unwrap()), subscription)
    }

    /// Sends numbered messages over IPC and UDP, and checks that they arrive in order.
    fn exchange(&mut self, count: u64) {
        for channel in ["aeron:ipc".to_owned(), format!("aeron:udp?endpoint={}", free_address())] {
            let (mut publication, mut subscription) = self.stream(&channel);
            let mut numbered = Numbered::new(count, 3_000);
            let mut reader = NumberedReader::default();
            self.until("the last message", |_| {
                numbered.offer(&mut publication);
                reader.poll(&mut subscription, 3_000);
                (reader.received == count).then_some(())
            });
        }
        assert_eq!(self.client.counters().value(C::Errors as i32), 0);
    }

    /// Returns the names of the threads except the main one, as far as the system keeps them, with their cores.
    fn threads(&self) -> BTreeMap<String, String> {
        let main = PathBuf::from(format!("/proc/{0}/task/{0}", self.child.id()));
        let mut threads = BTreeMap::new();
        for task in tasks(self.child.id()).into_iter().filter(|task| *task != main) {
            let name = std::fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
            assert!(threads.insert(name, cores(&task)).is_none(), "two threads of one name");
        }
        threads
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn tasks(process_id: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{process_id}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

/// Returns the number of times that a thread has gone to sleep; `None` until it runs and so has its name.
fn rests(process_id: u32, name: &str) -> Option<u64> {
    let is_named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name;
    let task = tasks(process_id).into_iter().find(is_named)?;
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().ok()
}

/// Returns the cores on which a task may run.
fn cores(task: &Path) -> String {
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_owned()
}

fn names(process: &Process) -> Vec<String> {
    process.threads().into_keys().collect()
}

#[test]
fn streams_flow_on_the_threads_of_every_mode() {
    // The system keeps 15 bytes of a name.
    for (mode, expected) in [
        ("DEDICATED", &["aeron-executor", "driver-conducto", "receiver", "sender"][..]),
        ("SHARED_NETWORK", &["[sender,receive", "aeron-executor", "driver-conducto"]),
        ("SHARED", &["[sender,receive", "aeron-executor"]),
    ] {
        let mut process = Process::start(&[format!("threading.mode={mode}")]);
        process.exchange(200);
        assert_eq!(names(&process), expected, "{mode}");
        for id in 26..32 {
            let label = process.client.counters().label(id);
            assert!(label.ends_with(&format!(" {mode}")), "{label}");
        }
        // Every agent has its own longest cycle, also on a shared thread.
        for counter in [C::ConductorMaxCycleTime, C::SenderMaxCycleTime, C::ReceiverMaxCycleTime] {
            assert!(process.client.counters().value(counter as i32) > 0, "{mode}: {counter:?}");
        }
    }
}

#[test]
fn streams_flow_when_the_owner_runs_the_driver() {
    let mut world = crate::world::World::new(|context| context.threading_mode = ThreadingMode::Invoker);
    assert!(world.client.counters().label(26).ends_with(" INVOKER"));
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 200, 3_000);
}

#[test]
fn threads_run_on_the_cores_that_were_set() {
    let all = cores(Path::new("/proc/self"));
    let first: usize = all.split(['-', ',']).next().unwrap().parse().unwrap();
    let last: usize = all.rsplit(['-', ',']).next().unwrap().parse().unwrap();
    let affinity = |agent: &str, core: usize| format!("{agent}.cpu.affinity={core}");
    let pinned = [affinity("conductor", first), affinity("sender", last), affinity("receiver", first)];
    let (first, last) = (first.to_string(), last.to_string());
    for (mode, expected) in [
        ("DEDICATED", vec![("driver-conducto", &first), ("receiver", &first), ("sender", &last)]),
        ("SHARED_NETWORK", vec![("[sender,receive", &last), ("driver-conducto", &first)]),
        ("SHARED", vec![("[sender,receive", &first)]),
    ] {
        let mut settings = pinned.to_vec();
        settings.push(format!("threading.mode={mode}"));
        let mut process = Process::start(&settings);
        process.exchange(20);
        let mut threads = process.threads();
        // The system may run the executor on any core.
        assert_eq!(threads.remove("aeron-executor"), Some(all.clone()));
        let threads: Vec<_> = threads.iter().map(|(name, cores)| (&**name, cores)).collect();
        assert_eq!(threads, expected, "{mode}");
    }
}

#[test]
fn a_core_that_is_not_there_is_a_warning_in_the_error_log_and_the_driver_runs() {
    let mut process = Process::start(&["sender.cpu.affinity=255".to_owned()]);
    process.until("the warning", |client| (client.counters().value(C::Errors as i32) == 1).then_some(()));
    let (mut publication, mut subscription) = process.stream("aeron:ipc");
    process.until("a message", |_| {
        let _offered = publication.offer(b"x");
        (subscription.poll(1, &mut |_, _| ()) == 1).then_some(())
    });
}

#[test]
fn every_idle_strategy_runs_every_agent() {
    for (strategy, arguments) in [
        ("noop", None),
        ("spin", None),
        ("yield", None),
        ("sleeping", Some("20us")),
        ("sleep-ns", None),
        ("sleep-ms", None),
        ("backoff", None),
        ("backoff", Some("3-4-5us-6us")),
        ("aeron_idle_strategy_backoff", None),
    ] {
        for mode in ["DEDICATED", "SHARED"] {
            let mut settings = vec![format!("threading.mode={mode}")];
            for agent in AGENTS {
                settings.push(format!("{agent}.idle.strategy={strategy}"));
                settings.extend(
                    arguments.map(|arguments| format!("{agent}.idle.strategy.init.args={arguments}")),
                );
            }
            Process::start(&settings).exchange(10);
        }
    }
}

#[test]
fn the_arguments_of_a_strategy_are_those_of_its_agent() {
    // The thread that sleeps for 500 ms wakes seldom. The one that sleeps for 1 ms wakes often, even when it is woken
    // late.
    let settings = [
        "threading.mode=DEDICATED",
        "sender.idle.strategy=sleeping",
        "sender.idle.strategy.init.args=500ms",
        "receiver.idle.strategy=sleeping",
        "receiver.idle.strategy.init.args=1ms",
    ];
    let mut process = Process::start(&settings.map(str::to_owned));
    let id = process.child.id();
    let both = || Some((rests(id, "sender")?, rests(id, "receiver")?));
    let (seldom, often) = process.until("both threads", |_| both());
    process.until("both paces", |_| {
        let (seldom, often) = both().map(|(sender, receiver)| (sender - seldom, receiver - often))?;
        (seldom >= 3 && often >= 5 * seldom).then_some(())
    });
}

#[test]
fn an_error_of_an_agent_is_logged_and_the_agents_go_on() {
    let directory = tempfile::Builder::new().prefix("harrier-threads-").tempdir_in("/dev/shm").unwrap();
    let context = crate::world::context(directory.path());
    let aeron = context.directory.clone();
    let now = PausingClock.now();
    let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now).unwrap();
    let sink = driver.handle.error_sink();
    let mut agents = driver.into_agents();
    let mut client = Aeron::connect(Context::new(aeron), MappedMemory, &now).unwrap();
    sink("sender", &AgentError::failed("out of luck"));
    let id = client.add_counter(1_001, b"", "still there").unwrap();
    let deadline_ns = now.ns + crate::world::PATIENCE_NS;
    let mut counter: Result<_, ClientError> = Ok(None);
    while !matches!(counter, Ok(Some(_))) {
        let now = PausingClock.now();
        assert!(now.ns < deadline_ns);
        for agent in &mut agents {
            agent.do_work(&now).unwrap();
        }
        client.do_work(&now).unwrap();
        counter = client.counter(id);
    }
    assert_eq!(client.counters().value(C::Errors as i32), 1);
}
