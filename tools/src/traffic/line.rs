//! Connection of a command: a client, and a media driver that runs already or is the command's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use harrier::client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier::default_idle;
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::append::OfferError;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::ringbuf::{Clock, Now};

use crate::CommandError;
use crate::node::{parse_idle, stop_on_signals};
use crate::own_driver::InvokedDriver;

/// Longest time for published messages to leave, ns.
const PATIENCE_NS: i64 = 10_000_000_000;

/// Choice of the driver and of the idle strategy.
#[derive(Debug, Clone, Args)]
pub struct LineArguments {
    /// Directory of a running media driver [default: a driver of the command's own, in its thread].
    #[arg(long, value_name = "DIR")]
    pub aeron_dir: Option<PathBuf>,
    /// Idle strategy of the thread: spin, yield, backoff, sleep-ns, sleep-ms or noop [default: by number of cores].
    #[arg(long, value_parser = parse_idle)]
    pub idle: Option<IdleStrategy>,
}

/// A client with its driver. The command's thread runs both.
pub(super) struct Line {
    aeron: Aeron,
    driver: Option<InvokedDriver>,
    idle: IdleStrategy,
    stop: Arc<AtomicBool>,
    /// Time of the last turn.
    pub(super) now: Now,
}

impl Line {
    /// Connects to the driver, or starts one.
    pub(super) fn open(arguments: &LineArguments, client_name: &str) -> Result<Self, CommandError> {
        let stop = stop_on_signals()?;
        let (directory, driver) = match &arguments.aeron_dir {
            Some(directory) => (directory.clone(), None),
            None => {
                let own = InvokedDriver::start("harrier-traffic-")?;
                (own.aeron_directory(), Some(own))
            }
        };
        let now = SystemClock.now();
        let context = Context::new(directory).client_name(client_name);
        let aeron = Aeron::connect(context, MappedMemory, &now).map_err(CommandError::failed)?;
        let idle = arguments.idle.clone().unwrap_or_else(default_idle);
        Ok(Self { aeron, driver, idle, stop, now })
    }

    /// Runs one turn of client and driver; returns the work done.
    #[inline]
    pub(super) fn step(&mut self) -> Result<usize, CommandError> {
        self.now = SystemClock.now();
        let mut work_count = 0;
        if let Some(driver) = &mut self.driver {
            for agent in &mut driver.agents {
                work_count += agent.do_work(&self.now).map_err(CommandError::failed)?;
            }
        }
        Ok(work_count + self.aeron.do_work(&self.now).map_err(CommandError::failed)?)
    }

    /// Idles when there was no work.
    #[inline]
    pub(super) fn idle(&mut self, work_count: usize) {
        self.idle.idle(work_count);
    }

    /// True when a signal has asked for the end.
    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs turns until a condition holds. Returns `None` when a signal or the time-out ends that.
    pub(super) fn until<V>(
        &mut self,
        patience_ns: i64,
        mut condition: impl FnMut(&mut Self) -> Result<Option<V>, CommandError>,
    ) -> Result<Option<V>, CommandError> {
        let deadline_ns = SystemClock.now().ns.saturating_add(patience_ns);
        while !self.is_stopped() {
            let work_count = self.step()?;
            if let Some(value) = condition(self)? {
                return Ok(Some(value));
            }
            if self.now.ns > deadline_ns {
                break;
            }
            self.idle(work_count);
        }
        Ok(None)
    }

    /// Adds a subscription to the stream.
    pub(super) fn subscription(
        &mut self,
        channel: &str,
        stream_id: i32,
    ) -> Result<Subscription, CommandError> {
        let id = self.aeron.add_subscription(channel, stream_id).map_err(told)?;
        self.ready(|aeron| aeron.subscription(id))
    }

    /// Adds an exclusive publication to the stream.
    pub(super) fn publication(
        &mut self,
        channel: &str,
        stream_id: i32,
    ) -> Result<ExclusivePublication, CommandError> {
        let id = self.aeron.add_exclusive_publication(channel, stream_id).map_err(told)?;
        self.ready(|aeron| aeron.exclusive_publication(id))
    }

    fn ready<V>(
        &mut self,
        mut look: impl FnMut(&mut Aeron) -> Result<Option<V>, ClientError>,
    ) -> Result<V, CommandError> {
        // The client itself returns an error when the driver does not answer.
        self.until(i64::MAX, |candidate| look(&mut candidate.aeron).map_err(told))?
            .ok_or(CommandError::Answer(0))
    }

    /// Gives published messages time to leave: until all are sent, or for `PATIENCE_NS`. Then it stays for
    /// `linger_ns`, in which receivers may ask for lost data.
    pub(super) fn linger(
        &mut self,
        publication: &ExclusivePublication,
        linger_ns: i64,
    ) -> Result<(), CommandError> {
        let window = publication.term_buffer_length() as i64 / 2;
        let end = publication.position();
        // The limit is half a term ahead of the sender, or of the slowest subscriber of an IPC stream.
        let is_sent =
            || !publication.is_connected() || publication.position_limit() >= end.saturating_add(window);
        self.until(PATIENCE_NS, |_| Ok(is_sent().then_some(())))?;
        self.until(linger_ns, |_| Ok((!publication.is_connected()).then_some(())))?;
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.aeron.close();
        if let Some(driver) = &mut self.driver {
            for agent in &mut driver.agents {
                agent.on_close(&self.now);
            }
        }
    }
}

/// An invalid channel is wrong usage.
fn told(error: ClientError) -> CommandError {
    match error {
        ClientError::Registration { .. } => CommandError::Usage(error.to_string()),
        other => CommandError::failed(other),
    }
}

/// An offer that may succeed later is not a failure.
#[inline]
pub(super) fn later(error: OfferError) -> Result<(), CommandError> {
    match error {
        OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected => Ok(()),
        other => Err(CommandError::failed(other)),
    }
}
