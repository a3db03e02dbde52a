//! Our client beside other processes.

use std::path::Path;

use harrier::client::{Aeron, ClientError, Context, ExclusivePublication, Publication, Subscription};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::ringbuf::append::OfferError;
use harrier::ringbuf::assembly::FragmentAssembler;

use super::{PATIENCE_NS, messages, patient_idle, until};

/// Settings whose timeouts tolerate waiting tests and a stalled machine.
pub fn context(directory: &Path) -> Context {
    let mut context = Context::new(directory);
    context.driver_timeout_ms = PATIENCE_NS / 1_000_000;
    context.inter_service_timeout_ns = PATIENCE_NS;
    context
}

/// A client whose duty cycle runs during waits.
pub struct Client {
    /// The client.
    pub aeron: Aeron,
}

impl Client {
    /// Connects to the driver of a directory, which may still be starting.
    pub fn connect(directory: &Path) -> Self {
        let aeron = until("the driver", || {
            match Aeron::connect(context(directory), MappedMemory, &SystemClock.now()) {
                Ok(aeron) => Some(aeron),
                Err(ClientError::NotReady { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        Self { aeron }
    }

    /// Runs one duty cycle.
    pub fn work(&mut self) {
        self.aeron.do_work(&SystemClock.now()).unwrap();
    }

    /// Works until there is a value.
    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        let mut idle = patient_idle();
        loop {
            let now = SystemClock.now();
            self.aeron.do_work(&now).unwrap();
            if let Some(value) = condition(&mut self.aeron) {
                return value;
            }
            assert!(now.ns < deadline_ns, "{what} did not come");
            idle.idle(0);
        }
    }

    /// Adds a publication.
    pub fn publication(&mut self, channel: &str, stream_id: i32) -> Publication {
        let id = self.aeron.add_publication(channel, stream_id).unwrap();
        self.until("the publication", |aeron| aeron.publication(id).unwrap())
    }

    /// Adds an exclusive publication.
    pub fn exclusive(&mut self, channel: &str, stream_id: i32) -> ExclusivePublication {
        self.try_exclusive(channel, stream_id).unwrap()
    }

    /// Adds an exclusive publication that may fail with the driver's error.
    pub fn try_exclusive(
        &mut self,
        channel: &str,
        stream_id: i32,
    ) -> Result<ExclusivePublication, ClientError> {
        let id = self.aeron.add_exclusive_publication(channel, stream_id).unwrap();
        self.until("the publication", |aeron| aeron.exclusive_publication(id).transpose())
    }

    /// Adds a subscription.
    pub fn subscription(&mut self, channel: &str, stream_id: i32) -> Subscription {
        let id = self.aeron.add_subscription(channel, stream_id).unwrap();
        self.until("the subscription", |aeron| aeron.subscription(id).unwrap())
    }

    /// The channel of a subscription with the port that the system chose.
    pub fn resolved(&mut self, subscription: &Subscription) -> String {
        self.until("the bound port", |aeron| subscription.resolved_channel(aeron.counters()))
    }

    /// Sends messages of one length, numbered by `range`.
    pub fn send(
        &mut self,
        publication: &mut ExclusivePublication,
        range: std::ops::Range<u64>,
        length: usize,
    ) {
        let mut message = vec![0; length];
        for number in range {
            messages::fill(&mut message, number);
            self.until("room for a message", |_| match publication.offer(&message) {
                Ok(_) => Some(()),
                Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => None,
                Err(error) => panic!("message {number}: {error}"),
            });
        }
    }

    /// Receives messages of one length, numbered by `range`, and checks each byte.
    pub fn receive(&mut self, subscription: &mut Subscription, range: std::ops::Range<u64>, length: usize) {
        let mut assembler = FragmentAssembler::new();
        let mut next = range.start;
        let what = format!("messages {range:?} of {length} bytes");
        self.until(&what, |_| {
            subscription.poll(16, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, _| {
                    messages::check(message, length, next);
                    next += 1;
                });
            });
            (next >= range.end).then_some(())
        });
    }

    /// Counters in use as (id, type id, value, label).
    pub fn counters(&self) -> Vec<(i32, i32, i64, String)> {
        let mut list = Vec::new();
        let counters = self.aeron.counters();
        counters.for_each(&mut |id, type_id, _, label| {
            list.push((id, type_id, counters.value(id), label.to_owned()));
        });
        list
    }
}
