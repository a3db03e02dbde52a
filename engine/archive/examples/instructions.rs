//! Records a fixed number of messages on one thread, with time that does not depend on the host: for counting instructions
//! per recorded message.
//!
//! `valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/instructions 20000 100`; the difference
//! of two runs with different numbers of messages leaves the start out.
#![forbid(unsafe_code)]

use harrier_archive::client::{ArchiveClient, ArchiveClientContext, find_by_recording};
use harrier_archive::{Archive, ArchiveContext, SourceLocation};
use harrier_client::{Aeron, Context};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_platform::{FileStorage, HostTransport, MappedMemory};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::transport::TransportOptions;
use harrier_ringbuf::{Agent, Now};

const STREAM: i32 = 1_001;
const CHANNEL: &str = "aeron:ipc?term-length=1m";
/// Time between two duty cycles, ns.
const STEP_NS: i64 = 2_000;

/// All agents with the time that they are told.
struct Thread {
    agents: Vec<Box<dyn Agent>>,
    client: Aeron,
    archive: ArchiveClient,
    now: Now,
}

impl Thread {
    fn step(&mut self) {
        self.now.ns += STEP_NS;
        self.now.epoch_ms = self.now.ns / 1_000_000;
        for agent in &mut self.agents {
            agent.do_work(&self.now).expect("the agents work");
        }
        self.client.do_work(&self.now).expect("the client works");
        self.archive.poll(&mut self.client, &self.now).expect("the archive's client works");
    }

    fn until<V>(&mut self, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        loop {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (messages, length) = (number(10_000), number(100));
    let directory = std::env::temp_dir().join(format!("harrier-archive-instructions-{}", std::process::id()));
    let mut context = DriverContext::new(directory.join("aeron"));
    context.delete_directory_on_shutdown = true;
    let now = Now { ns: 1_000_000_000, epoch_ms: 1_000 };
    let transport = HostTransport::new(&TransportOptions::default()).expect("sockets");
    let driver =
        Driver::build(context, MappedMemory, transport, ExecutorMode::Inline, &now).expect("a driver");
    let context = ArchiveContext::new(directory.join("aeron"), directory.join("archive"));
    let archive = Archive::launch(context, MappedMemory, FileStorage::inline(), &now).expect("an archive");
    let client = Aeron::connect(Context::new(directory.join("aeron")), MappedMemory, &now).expect("a client");
    let mut agents = driver.into_agents();
    agents.push(Box::new(archive));
    let archive = ArchiveClient::new(ArchiveClientContext::ipc());
    let mut thread = Thread { agents, client, archive, now };
    thread.until(|thread| thread.archive.is_connected().then_some(()));
    let client = &thread.client;
    let asked = thread.archive.start_recording(client, CHANNEL, STREAM, SourceLocation::Local, false);
    asked.expect("a request");
    let id = thread.client.add_exclusive_publication(CHANNEL, STREAM).expect("a command");
    let mut publication =
        thread.until(|thread| thread.client.exclusive_publication(id).expect("a publication"));
    let counter = thread.until(|thread| find_by_recording(thread.client.counters(), 0, None));
    let message = vec![7; length];
    let mut sent = 0;
    while sent < messages || thread.client.counters().value(counter) < publication.position() {
        if sent < messages {
            match publication.offer(&message) {
                Ok(_) => sent += 1,
                Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread.step();
    }
    println!("{sent} messages of {length} bytes recorded");
    for agent in &mut thread.agents {
        agent.on_close(&thread.now);
    }
    // The directory is of no use to anybody.
    let _best_effort = std::fs::remove_dir_all(&directory);
}
