//! One thread, a fixed number of messages, time that does not depend on the host: for counting instructions per message.
//!
//! `valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/instructions udp 20000`; the difference
//! of two runs with different numbers of messages leaves the start out.
#![forbid(unsafe_code)]

use harrier_client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_platform::{HostTransport, MappedMemory, free_ports};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::frame::FLAG_END;
use harrier_ringbuf::transport::TransportOptions;
use harrier_ringbuf::{Agent, Now};

const STREAM: i32 = 10;
/// Time between two duty cycles, ns.
const STEP_NS: i64 = 2_000;

/// All agents with the time that they are told.
struct Thread {
    agents: Vec<Box<dyn Agent>>,
    client: Aeron,
    now: Now,
}

impl Thread {
    fn step(&mut self) {
        self.now.ns += STEP_NS;
        self.now.epoch_ms = self.now.ns / 1_000_000;
        for agent in &mut self.agents {
            agent.do_work(&self.now).expect("the driver works");
        }
        self.client.do_work(&self.now).expect("the client works");
    }

    fn until<V>(&mut self, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        loop {
            self.step();
            if let Some(value) = condition(&mut self.client) {
                return value;
            }
        }
    }

    fn stream(&mut self, channel: &str) -> (ExclusivePublication, Subscription) {
        let id = self.client.add_subscription(channel, STREAM).expect("a command");
        let mut subscription = self.until(|client| client.subscription(id).expect("a subscription"));
        let id = self.client.add_exclusive_publication(channel, STREAM).expect("a command");
        let publication = self.until(|client| client.exclusive_publication(id).expect("a publication"));
        self.until(|_| (publication.is_connected() && !subscription.images().is_empty()).then_some(()));
        (publication, subscription)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let medium = arguments.next().unwrap_or_else(|| "ipc".into());
    let messages: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let length: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(100);
    let directory = std::env::temp_dir().join(format!("harrier-instructions-{}", std::process::id()));
    let mut context = DriverContext::new(&directory);
    context.delete_directory_on_shutdown = true;
    let now = Now { ns: 1_000_000_000, epoch_ms: 1_000 };
    let transport = HostTransport::new(&TransportOptions::default()).expect("sockets");
    let driver =
        Driver::build(context, MappedMemory, transport, ExecutorMode::Inline, &now).expect("a driver");
    let client = Aeron::connect(Context::new(&directory), MappedMemory, &now).expect("a client");
    let mut thread = Thread { agents: driver.into_agents(), client, now };
    let channel = match medium.as_str() {
        "udp" => format!("aeron:udp?term-length=1m|endpoint=127.0.0.1:{}", free_ports(1).expect("a port")[0]),
        _ => "aeron:ipc?term-length=1m".to_owned(),
    };
    let (mut publication, mut subscription) = thread.stream(&channel);
    let message = vec![7; length];
    let (mut sent, mut received) = (0, 0_u64);
    while received < messages {
        if sent < messages {
            match publication.offer(&message) {
                Ok(_) => sent += 1,
                Err(OfferError::BackPressured | OfferError::AdminAction) => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread.step();
        subscription.poll(16, &mut |_, header| received += u64::from(header.flags() & FLAG_END != 0));
    }
    drop((publication, subscription));
    println!("{received} messages of {length} bytes over {medium}");
    for agent in &mut thread.agents {
        agent.on_close(&thread.now);
    }
}
