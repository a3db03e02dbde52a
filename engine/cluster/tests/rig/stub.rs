//! The control streams under the control of a test: a service with any answers, or a tool.

use std::path::Path;

use harrier_client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier_cluster::codec::{ModuleMessage, ServiceMessage};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_ringbuf::Clock;
use harrier_ringbuf::assembly::FragmentAssembler;

/// Messages of a consensus module to its services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Join { log_position: i64, max_log_position: i64, stream_id: i32 },
    Terminate(i64),
    Other(Vec<u8>),
}

pub struct Stub {
    pub aeron: Aeron,
    ids: (i64, i64),
    to_module: Option<ExclusivePublication>,
    from_module: Option<Subscription>,
    assembler: FragmentAssembler,
    pub told: Vec<Told>,
}

impl Stub {
    pub fn new(directory: &Path) -> Self {
        let context = Context::new(directory.join("node"));
        let mut aeron = Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap();
        let channel = "aeron:ipc?term-length=128k";
        let ids = (
            aeron.add_exclusive_publication(channel, 105).unwrap(),
            aeron.add_subscription(channel, 104).unwrap(),
        );
        Self {
            aeron,
            ids,
            to_module: None,
            from_module: None,
            assembler: FragmentAssembler::new(),
            told: Vec::new(),
        }
    }

    pub fn poll(&mut self) {
        if self.aeron.do_work(&PausingClock.now()).is_err() {
            return;
        }
        if self.to_module.is_none() {
            self.to_module = self.aeron.exclusive_publication(self.ids.0).unwrap();
        }
        if self.from_module.is_none() {
            self.from_module = self.aeron.subscription(self.ids.1).unwrap();
        }
        let Some(from_module) = &mut self.from_module else { return };
        let (assembler, told) = (&mut self.assembler, &mut self.told);
        from_module.poll(10, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                told.push(match ModuleMessage::decode(message).unwrap() {
                    Some(ModuleMessage::JoinLog {
                        log_position, max_log_position, log_stream_id, ..
                    }) => Told::Join { log_position, max_log_position, stream_id: log_stream_id },
                    Some(ModuleMessage::TerminationPosition { log_position }) => {
                        Told::Terminate(log_position)
                    }
                    _ => Told::Other(message.to_vec()),
                });
            });
        });
    }

    pub fn send(&mut self, message: &ServiceMessage<'_>) -> bool {
        let mut bytes = vec![0; 4_096];
        let length = message.encode(&mut bytes).unwrap();
        self.to_module.as_mut().is_some_and(|module| module.offer(&bytes[..length]).is_ok())
    }
}

impl super::Node {
    /// Replaces service 0 by a stub; returns the id of its client.
    pub fn add_stub(&mut self) -> i64 {
        let stub = Stub::new(&self.directory);
        let client_id = stub.aeron.client_id();
        self.stub = Some(stub);
        client_id
    }

    fn stub(&mut self) -> &mut Stub {
        self.stub.as_mut().unwrap()
    }

    /// Works until the stub has received a matching message.
    pub fn until_told(&mut self, what: &str, wanted: impl Fn(&Told) -> bool) -> Told {
        self.until(what, |node| node.stub().told.iter().rev().find(|told| wanted(told)).cloned())
    }

    pub fn until_sent(&mut self, message: &ServiceMessage<'_>) {
        self.until("room for a service's message", |node| node.stub().send(message).then_some(()));
    }

    pub fn until_acked(&mut self, log_position: i64, ack_id: i64, relevant_id: i64) {
        self.until_sent(&ServiceMessage::Ack {
            log_position,
            timestamp: 0,
            ack_id,
            relevant_id,
            service_id: 0,
        });
    }

    /// Starts a new log with the stub as its only service; returns the id of the stub's client.
    pub fn lead_with_stub(&mut self) -> i64 {
        let client_id = self.add_stub();
        self.until_acked(0, 0, client_id);
        self.until_told("the join", |told| matches!(told, Told::Join { .. }));
        self.until_acked(0, 1, -1);
        self.until_leading();
        client_id
    }
}
