//! A cluster of one member: the node on one thread, the client with its driver on another.

use harrier::cluster::client::{ClusterClient, ClusterClientContext, ClusterClientError};
use harrier::platform::{SystemClock, free_ports};
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::services::EchoService;
use harrier::{Layout, Node, NodeContext};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::measurement::histogram;
use crate::side::{Invoked, PATIENCE_NS, Side, directory, driver_context};
use crate::stopwatch::Stopwatch;

/// Measures echoes of a fused node with `parameters.window` outstanding requests.
pub(crate) fn one_member(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let ports = free_ports(5)?;
    let members = format!(
        "0,127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
        ports[0], ports[1], ports[2], ports[3], ports[4]
    );
    let mut context =
        NodeContext::new(directory.path().join("node"), directory.path().join("node-aeron"), 0, members);
    context.layout = Layout::Fused;
    context.idle = IdleStrategy::Spin;
    let node = Node::launch(context, vec![Box::new(|| Box::new(EchoService))]).map_err(BenchError::engine)?;
    let outcome = Client::connect(directory.path(), ports[0], parameters)
        .and_then(|mut client| client.measure(parameters));
    let failures = node.failures();
    let stopped = node.stop();
    if let Some(failure) = failures.into_iter().next() {
        return Err(BenchError::Engine(failure));
    }
    stopped.map_err(BenchError::Engine)?;
    outcome
}

pub(crate) struct Client {
    side: Invoked,
    cluster: ClusterClient,
    message: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(
        directory: &std::path::Path,
        port: u16,
        parameters: &Parameters,
    ) -> Result<Self, BenchError> {
        let side = Invoked::new(driver_context(directory, "client")?)?;
        let mut context =
            ClusterClientContext::new(format!("0=127.0.0.1:{port}"), "aeron:udp?endpoint=127.0.0.1:0");
        context.ingress_channel = "aeron:udp?term-length=1m".into();
        context.message_timeout_ns = PATIENCE_NS as i64;
        let cluster = ClusterClient::new(context).map_err(BenchError::engine)?;
        let mut client = Self { side, cluster, message: vec![0; parameters.size] };
        let stopwatch = Stopwatch::start();
        while !client.cluster.is_connected() {
            if stopwatch.ns() > 2 * PATIENCE_NS {
                return Err(BenchError::Timeout("the cluster session"));
            }
            client.step(&mut |_| ())?;
            std::thread::yield_now();
        }
        Ok(client)
    }

    fn measure(&mut self, parameters: &Parameters) -> Result<Outcome, BenchError> {
        let mut times = histogram();
        self.exchange(parameters.window, parameters.warmup_s, &mut times)?;
        times.reset();
        let stopwatch = Stopwatch::start();
        self.exchange(parameters.window, parameters.seconds, &mut times)?;
        let msgs_per_s = times.len() as f64 * 1e9 / stopwatch.ns() as f64;
        let parameters = vec![
            ("outstanding", json!(parameters.window)),
            ("node", json!("fused, spin")),
            ("driver", json!("invoked")),
        ];
        Ok(Outcome { parameters, latency: Some(times), msgs_per_s })
    }

    #[inline]
    pub(crate) fn step(&mut self, on_message: &mut impl FnMut(&[u8])) -> Result<usize, BenchError> {
        let work = self.side.step()?;
        let mut listener = |_: i64, _: i64, message: &[u8]| on_message(message);
        let polled = self
            .cluster
            .poll(self.side.aeron(), &SystemClock.now(), &mut listener)
            .map_err(BenchError::engine)?;
        Ok(work + polled)
    }

    /// Offers a request; returns false when the ingress takes nothing now.
    #[inline]
    pub(crate) fn offer(&mut self, now_ns: u64) -> Result<bool, BenchError> {
        self.message[..8].copy_from_slice(&now_ns.to_le_bytes());
        match self.cluster.offer(&self.message) {
            Ok(_) => Ok(true),
            Err(ClusterClientError::Offer(error)) if error.is_retryable() => Ok(false),
            Err(error) => Err(BenchError::engine(error)),
        }
    }

    /// Keeps `window` requests outstanding for a while, then waits for the last answers.
    fn exchange(
        &mut self,
        window: usize,
        seconds: f64,
        times: &mut Histogram<u64>,
    ) -> Result<(), BenchError> {
        let stopwatch = Stopwatch::start();
        let end_ns = (seconds * 1e9) as u64;
        let (mut sent, mut received) = (0_usize, 0_usize);
        loop {
            let work = self.step(&mut |message| {
                let sent_ns =
                    u64::from_le_bytes(*message.first_chunk().expect("an echo is as long as its request"));
                times.saturating_record(stopwatch.ns() - sent_ns);
                received += 1;
            })?;
            let now_ns = stopwatch.ns();
            if now_ns < end_ns {
                let before = sent;
                while sent - received < window && self.offer(stopwatch.ns())? {
                    sent += 1;
                }
                if work == 0 && sent == before {
                    std::hint::spin_loop();
                }
            } else if received == sent {
                return Ok(());
            } else if now_ns > end_ns + PATIENCE_NS {
                return Err(BenchError::Timeout("the last answer"));
            }
        }
    }
}
