//! Support for the examples of streams: a media driver that belongs to the example, and a client of it.
#![allow(dead_code, reason = "no example uses all of it")]

use std::error::Error;
use std::path::{Path, PathBuf};

use harrier::client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::driver::{ExecutorMode, HostDriver, RunningDriver};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::ringbuf::append::OfferError;
use harrier::ringbuf::assembly::FragmentAssembler;
use harrier::ringbuf::idle::{Backoff, IdleStrategy};

/// The result of an example.
pub type Outcome<V> = Result<V, Box<dyn Error>>;

/// Longest that an example waits for one thing, in nanoseconds.
const PATIENCE_NS: i64 = 60_000_000_000;

/// A media driver on one thread, and a client of it that this thread drives.
///
/// Programs on a host share one driver, which is a process of its own (`harrier-driver`); these bring theirs along so that they
/// run by themselves.
pub struct Media {
    /// The client.
    pub client: Aeron,
    /// Directory of the driver.
    pub directory: PathBuf,
    _running: RunningDriver,
}

impl Media {
    /// Starts a driver with its files below `base`; `change` alters its settings.
    pub fn start(base: &Path, name: &str, change: impl FnOnce(&mut DriverContext)) -> Outcome<Self> {
        let mut context = DriverContext::new(base.join(name));
        context.seed = SystemClock.now().ns as u64;
        context.threading_mode = ThreadingMode::Shared;
        context.shared_idle = IdleStrategy::Backoff(Backoff::new(10, 20, 1_000, 100_000));
        context.counters_buffer_length = 1 << 20;
        context.term_buffer_length = 64 << 10;
        context.ipc_term_buffer_length = 64 << 10;
        change(&mut context);
        let directory = context.directory.clone();
        let now = SystemClock.now();
        let driver = HostDriver::on_host(context, ExecutorMode::Queued, &now)?;
        let running = driver.launch_on_host()?;
        let client = Aeron::connect(Context::new(&directory).client_name(name), MappedMemory, &now)?;
        Ok(Self { client, directory, _running: running })
    }

    /// One duty cycle of the client.
    pub fn step(&mut self) -> Outcome<()> {
        if self.client.do_work(&SystemClock.now())? == 0 {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Drives the client until `condition` has a value.
    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> Outcome<V> {
        let begin = SystemClock.now();
        while SystemClock.now().ns - begin.ns < PATIENCE_NS {
            self.step()?;
            if let Some(value) = condition(&mut self.client) {
                return Ok(value);
            }
        }
        Err(format!("waited in vain for {what}").into())
    }

    /// Adds a publication of one writer.
    pub fn publication(&mut self, channel: &str, stream_id: i32) -> Outcome<ExclusivePublication> {
        let id = self.client.add_exclusive_publication(channel, stream_id)?;
        Ok(self.until(channel, |client| client.exclusive_publication(id).transpose())??)
    }

    /// Adds a subscription.
    pub fn subscription(&mut self, channel: &str, stream_id: i32) -> Outcome<Subscription> {
        let id = self.client.add_subscription(channel, stream_id)?;
        Ok(self.until(channel, |client| client.subscription(id).transpose())??)
    }

    /// The channel of a subscription with the port that the system chose for it.
    pub fn bound(&mut self, subscription: &Subscription) -> Outcome<String> {
        self.until("the bound port", |client| subscription.resolved_channel(client.counters()))
    }

    /// Waits until the driver has carried out a command.
    pub fn done(&mut self, id: Result<i64, ClientError>) -> Outcome<()> {
        let id = id?;
        let answer = self.until("the driver's answer", |client| match client.command_done(id) {
            Ok(is_done) => is_done.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        Ok(answer??)
    }

    /// Waits until a publication has a receiver.
    pub fn connected(&mut self, publication: &ExclusivePublication) -> Outcome<()> {
        self.until("a receiver", |_| publication.is_connected().then_some(()))
    }

    /// Offers a message until there is room for it; returns the position behind it.
    pub fn send(&mut self, publication: &mut ExclusivePublication, message: &[u8]) -> Outcome<i64> {
        Ok(self.until("room for a message", |_| match publication.offer(message) {
            Err(error) if error.is_retryable() => None,
            Err(OfferError::NotConnected) => None,
            sent => Some(sent),
        })??)
    }

    /// Reads so many messages as texts.
    pub fn texts(&mut self, subscription: &mut Subscription, count: usize) -> Outcome<Vec<String>> {
        let mut assembler = FragmentAssembler::default();
        let mut texts = Vec::new();
        self.until("the messages", |_| {
            subscription.poll(count - texts.len(), &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, _| {
                    texts.push(String::from_utf8_lossy(message).into_owned());
                });
            });
            (texts.len() == count).then_some(())
        })?;
        Ok(texts)
    }
}

/// Value of the first counter of a type whose label holds a text.
pub fn counter(client: &Aeron, type_id: i32, text: &str) -> Option<i64> {
    let counters = client.counters();
    let mut found = None;
    counters.for_each(&mut |id, counter_type, _, label| {
        if counter_type == type_id && label.contains(text) && found.is_none() {
            found = Some(counters.value(id));
        }
    });
    found
}

/// Runs an example with its files in shared memory and removes them again.
pub fn run<V: std::fmt::Debug>(name: &str, example: impl FnOnce(&Path) -> Outcome<V>) -> Outcome<()> {
    let base = Path::new("/dev/shm").join(format!("harrier-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&base)?;
    let outcome = example(&base);
    std::fs::remove_dir_all(&base)?;
    println!("{:#?}", outcome?);
    Ok(())
}
