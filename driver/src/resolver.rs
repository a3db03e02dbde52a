//! Name resolution by the system, by a table, or among drivers (spec 02 §5.12).

mod gossip;
mod table;

use std::net::{IpAddr, SocketAddr};

use harrier_ringbuf::counters::{AtomicCounter, CountersError, CountersManager};
use harrier_ringbuf::transport::{InterfaceAddress, TransportError};
use harrier_ringbuf::{Now, Transport};
use thiserror::Error;

use crate::context::{DriverContext, NameResolverSupplier};
use crate::driver::DriverHandle;
use crate::system_counters::{SystemCounter, SystemCounters};
use gossip::Gossip;
use table::NameTable;

/// Resolves the names of channels. A lookup may take as long as the system's resolver does.
pub(crate) trait HostNames {
    /// Returns the text that replaces an address; `None` when nothing does.
    fn substitute(&self, text: &str) -> Result<Option<String>, TransportError>;

    /// Looks up the address of a host.
    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError>;

    /// Addresses of this host's interfaces.
    fn interfaces(&self) -> Vec<InterfaceAddress>;
}

impl<T: Transport> HostNames for T {
    fn substitute(&self, _text: &str) -> Result<Option<String>, TransportError> {
        Ok(None)
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        Transport::resolve(self, host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        Transport::interfaces(self)
    }
}

/// Errors of a driver's name resolution at its start.
#[derive(Debug, Error)]
pub enum NamesError {
    /// `aeron.driver.resolver.name` is not set, or too long.
    #[error("resolver name is required: set aeron.driver.resolver.name to at most 255 bytes")]
    Name,
    /// The host of `aeron.driver.resolver.interface` is unknown.
    #[error("aeron.driver.resolver.interface={0}: {1}")]
    InterfaceHost(String, #[source] TransportError),
    /// `aeron.driver.resolver.interface` is not of the form host:port.
    #[error("aeron.driver.resolver.interface={0} must be host:port")]
    Interface(String),
    /// `aeron.driver.resolver.bootstrap.neighbor` names too many neighbours.
    #[error("aeron.driver.resolver.bootstrap.neighbor names {0} neighbours; at most 20 are allowed")]
    TooManyNeighbours(usize),
    /// A row of the table is malformed.
    #[error(
        "AERON_NAME_RESOLVER_INIT_ARGS={0} must be rows of name,initialHost,reResolutionHost separated by |"
    )]
    Table(String),
    /// The socket of name resolution could not be opened.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The counters of name resolution could not be allocated.
    #[error(transparent)]
    Counters(#[from] CountersError),
}

/// Name resolution of a driver, and its transport.
pub(crate) struct Names<T: Transport> {
    pub(crate) transport: T,
    kind: Kind<T>,
    lookups: Lookups,
}

enum Kind<T: Transport> {
    System,
    Table(NameTable),
    Gossip(Box<Gossip<T::Socket>>),
}

/// Duration of lookups: the time from a duty cycle with lookups to the next duty cycle.
struct Lookups {
    max: AtomicCounter,
    exceeded: AtomicCounter,
    threshold_ns: i64,
    were_done: bool,
    cycle_ns: i64,
}

impl Lookups {
    fn begin_cycle(&mut self, now_ns: i64) {
        if std::mem::take(&mut self.were_done) {
            let took_ns = now_ns - self.cycle_ns;
            self.max.propose_max(took_ns);
            if took_ns > self.threshold_ns {
                self.exceeded.increment();
            }
        }
        self.cycle_ns = now_ns;
    }
}

impl<T: Transport> Names<T> {
    /// Creates the name resolution that the settings ask for.
    pub(crate) fn new(
        context: &DriverContext,
        transport: T,
        counters: &mut CountersManager,
        system: &SystemCounters,
        handle: &DriverHandle,
    ) -> Result<Self, NamesError> {
        let is_gossip = !context.resolver_interface.is_empty();
        let kind = match context.name_resolver_supplier {
            NameResolverSupplier::Table => {
                Kind::Table(NameTable::new(&context.name_resolver_arguments, counters)?)
            }
            NameResolverSupplier::System if !is_gossip => Kind::System,
            NameResolverSupplier::System | NameResolverSupplier::Driver => {
                Kind::Gossip(Box::new(Gossip::new(context, &transport, counters, system, handle)?))
            }
        };
        let lookups = Lookups {
            max: system.get(SystemCounter::NameResolverMaxTime).clone(),
            exceeded: system.get(SystemCounter::NameResolverTimeThresholdExceeded).clone(),
            threshold_ns: context.name_resolver_threshold_ns,
            were_done: false,
            cycle_ns: 0,
        };
        Ok(Self { transport, kind, lookups })
    }

    /// Runs one duty cycle; returns the work done.
    pub(crate) fn work(&mut self, now: &Now) -> usize {
        self.lookups.begin_cycle(now.ns);
        match &mut self.kind {
            Kind::System | Kind::Table(_) => 0,
            Kind::Gossip(gossip) => gossip.work(&self.transport, now.ns),
        }
    }

    /// Notes that names are looked up in this duty cycle.
    pub(crate) fn note_lookup(&mut self) {
        self.lookups.were_done = true;
    }

    /// Time of the next work, ns.
    pub(crate) fn next_deadline(&self) -> Option<i64> {
        match &self.kind {
            Kind::System | Kind::Table(_) => None,
            Kind::Gossip(gossip) => Some(gossip.next_deadline()),
        }
    }
}

impl<T: Transport> HostNames for Names<T> {
    fn substitute(&self, text: &str) -> Result<Option<String>, TransportError> {
        match &self.kind {
            Kind::Table(table) => table.look_up(text).map(|found| found.map(str::to_owned)),
            Kind::System | Kind::Gossip(_) => Ok(None),
        }
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        if host.parse::<IpAddr>().is_err() {
            match &self.kind {
                Kind::System => {}
                Kind::Table(table) => {
                    let host = table.look_up(host)?.unwrap_or(host);
                    return self.transport.resolve(host, port);
                }
                Kind::Gossip(gossip) => {
                    if let Some(ip) = gossip.look_up(host) {
                        return Ok(SocketAddr::new(ip, port));
                    }
                }
            }
        }
        self.transport.resolve(host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        self.transport.interfaces()
    }
}
