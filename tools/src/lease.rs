//! `harrier lease`: leadership leases of a cluster from the command line.

mod cluster;
mod hold;
mod list;
mod top;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Subcommand};
use harrier::lease::{
    BlockError, Cancel, CheckError, Checker, ClaimError, Claimer, Fence, PinError, ProcessIdentity,
    ReleaseError, Token,
};
use harrier::leases::{BlockingLeaseClient, process_identity};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier_protocol::uri::parse_duration_ns;
use serde_json::{Value, json};

use crate::node::stop_on_signals;
use crate::{CommandError, print};
use cluster::Session;

const EXAMPLES: &str = "\
Examples:
  harrier lease --ingress 0=localhost:20110 claim gateway gateway/0 10s
      claims leadership for 10 s, or extends it; prints the fencing token
  harrier lease --ingress 0=localhost:20110 check gateway gateway/0 && echo leads
  harrier lease --ingress 0=localhost:20110 wait gateway
      waits until nobody leads
  harrier lease --ingress 0=localhost:20110 hold gateway gateway/0 --duration 5s -- ./gateway --live
      runs a program while the unit leads; it finds its token in HARRIER_FENCING_TOKEN and is stopped before another
      unit can lead
  harrier lease --ingress 0=localhost:20110 top
      all leases, live; list prints them

The cluster runs the lease service: harrier node --service lease …
Durations are numbers with s, ms, us or ns.
Exit codes: 0 yes, 3 denied, not held or lost, 1 failed (nothing is known then), 2 wrong usage.";

/// Exit code for denied, not held or lost.
const NO: u8 = 3;

/// Arguments of `harrier lease`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LeaseArguments {
    /// How the cluster is reached.
    #[command(flatten)]
    pub session: SessionArguments,
    /// Prints JSON, one object per line.
    #[arg(long, global = true)]
    pub json: bool,
    /// The command.
    #[command(subcommand)]
    pub command: LeaseCommand,
}

/// How the cluster is reached.
#[derive(Debug, Clone, Args)]
pub struct SessionArguments {
    /// Ingress endpoints of the members: id=host:port, joined by commas.
    #[arg(long, value_name = "ENDPOINTS", global = true)]
    pub ingress: Option<String>,
    /// Address on which answers are received: an address of this host that members reach, with port 0 for any.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:0", global = true)]
    pub egress: String,
    /// Directory of a running media driver [default: one of its own].
    #[arg(long, value_name = "DIR", global = true)]
    pub aeron_dir: Option<PathBuf>,
    /// Time in which an answer must come, ms.
    #[arg(long, value_name = "MS", default_value_t = 5_000, global = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_ms: u64,
}

/// Command of `harrier lease`.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Claims leadership of an application for a unit, or extends it.
    Claim {
        /// The application.
        application: String,
        /// The unit, by custom APPLICATION/NUMBER.
        unit: String,
        /// Duration of the lease, counted from the call.
        #[arg(value_parser = parse_duration)]
        duration: Duration,
        /// Name of the process that claims, equal for all commands that extend the same lease [default: the process that
        /// runs this command]
        #[arg(long, value_name = "NAME")]
        process: Option<String>,
    },
    /// Keeps a unit the leader, and runs a program while it leads.
    Hold(hold::HoldArguments),
    /// Asks the log whether a unit leads.
    Check {
        /// The application.
        application: String,
        /// The unit.
        unit: String,
    },
    /// Waits until an application has no leader.
    Wait {
        /// The application.
        application: String,
    },
    /// Lets a leader step down.
    Release {
        /// The application.
        application: String,
        /// The unit that leads.
        unit: String,
        /// Fencing token of its tenure.
        token: u64,
    },
    /// Keeps an application's lease from expiring.
    Pin {
        /// The application.
        application: String,
        /// Entity that pins the application.
        entity: String,
    },
    /// Takes a pin away.
    Unpin {
        /// The application.
        application: String,
        /// Entity that pinned the application.
        entity: String,
    },
    /// Shows all leases.
    List(list::ListArguments),
    /// Shows all leases live, with the time that is left of each.
    Top(top::TopArguments),
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_duration_ns(text) {
        Some(ns) if ns > 0 => Ok(Duration::from_nanos(ns as u64)),
        _ => Err("must be a number with s, ms, us or ns, as in 10s or 500ms".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// [`CommandError::Answer`] with 3 for no; see [`CommandError`].
pub fn run(arguments: &LeaseArguments) -> Result<(), CommandError> {
    let json = arguments.json;
    if let LeaseCommand::Hold(hold) = &arguments.command {
        return hold::run(hold, &arguments.session, json);
    }
    let session = match &arguments.command {
        LeaseCommand::Claim { process, .. } => Session::open_with(&arguments.session, |context| {
            // The command ends at once: the process that runs it is the one that leads.
            context.process = claiming_process(process.as_deref())?;
            context.claim_timeout_ns = Some(context.timeout_ns);
            Ok(())
        })?,
        _ => Session::open(&arguments.session)?,
    };
    let client = &session.client;
    match &arguments.command {
        LeaseCommand::Hold(_) => Ok(()),
        LeaseCommand::Claim { application, unit, duration, .. } => {
            claim(client, application, unit, *duration, json)
        }
        LeaseCommand::Check { application, unit } => check(client, application, unit, json),
        LeaseCommand::Wait { application } => wait(client, application, json),
        LeaseCommand::Release { application, unit, token } => {
            release(client, application, unit, *token, json)
        }
        LeaseCommand::Pin { application, entity } => {
            client.pin(application, entity).map_err(failure)?;
            let text = format!("{application} is pinned by {entity}");
            say(json, text, json!({ "outcome": "pinned", "application": application, "entity": entity }))
        }
        LeaseCommand::Unpin { application, entity } => {
            client.unpin(application, entity).map_err(failure)?;
            let text = format!("{application} is not pinned by {entity}");
            say(json, text, json!({ "outcome": "unpinned", "application": application, "entity": entity }))
        }
        LeaseCommand::List(list) => list::run(list, client, json),
        LeaseCommand::Top(top) => top::run(top, client),
    }
}

/// The process in whose name the command claims (spec 05 L23).
fn claiming_process(name: Option<&str>) -> Result<ProcessIdentity, CommandError> {
    let Some(name) = name else {
        // In a container the parent may be outside, where it cannot be seen.
        let parent = process_identity(std::os::unix::process::parent_id());
        return parent.or_else(|_| process_identity(std::process::id())).map_err(CommandError::failed);
    };
    harrier::lease::check_name("process", name).map_err(|error| CommandError::Usage(error.to_string()))?;
    Ok(ProcessIdentity::named(name))
}

/// Invalid input is wrong usage. Any other error permits no inference.
fn failure(error: impl Into<Failure>) -> CommandError {
    match error.into() {
        Failure::Invalid(text) => CommandError::Usage(text),
        Failure::Other(text) => CommandError::Failed(text),
    }
}

enum Failure {
    Invalid(String),
    Other(String),
}

macro_rules! failures {
    ($($error:ident),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                match error {
                    $error::Invalid(invalid) => Self::Invalid(invalid.to_string()),
                    other => Self::Other(other.to_string()),
                }
            }
        }
    )*};
}

failures!(ClaimError, BlockError, CheckError, ReleaseError, PinError);

fn say(json: bool, text: String, object: Value) -> Result<(), CommandError> {
    if json { print::json(&object) } else { print::text(&format!("{text}\n")) }
}

/// Reports a negative answer.
fn refuse(json: bool, text: String, object: Value) -> Result<(), CommandError> {
    say(json, text, object)?;
    Err(CommandError::Answer(NO))
}

fn claim(
    client: &BlockingLeaseClient,
    application: &str,
    unit: &str,
    duration: Duration,
    json: bool,
) -> Result<(), CommandError> {
    match client.claim_leadership(application, unit, duration) {
        Ok(tenure) => {
            let left_ms = (tenure.guaranteed_until_ns - SystemClock.now().ns) / 1_000_000;
            let token = tenure.token;
            let text = format!("{unit} leads {application} for {left_ms} ms more at least, token {token}");
            let object = json!({
                "outcome": "granted", "application": application, "unit": unit, "token": token, "guaranteed_ms": left_ms,
            });
            say(json, text, object)
        }
        Err(ClaimError::Denied) => {
            let text = format!("denied: another unit leads {application}");
            refuse(json, text, json!({ "outcome": "denied", "application": application, "unit": unit }))
        }
        Err(ClaimError::UnitHeld(held)) => {
            let (process, started_ms) = (&held.holder.name, held.holder.started_ms);
            let object = json!({
                "outcome": "unit held", "application": application, "unit": unit, "process": process,
                "started_ms": started_ms,
            });
            refuse(json, format!("denied: {held}"), object)
        }
        Err(error) => Err(failure(error)),
    }
}

fn check(
    client: &BlockingLeaseClient,
    application: &str,
    unit: &str,
    json: bool,
) -> Result<(), CommandError> {
    let mut fence = Fence::default();
    match client.leadership_check(application, unit).check(Some(&mut fence)) {
        Ok(()) => {
            let token = fence.token;
            let text = format!("{unit} leads {application}, token {token}");
            let object =
                json!({ "outcome": "held", "application": application, "unit": unit, "token": token });
            say(json, text, object)
        }
        Err(CheckError::NotHeld) => {
            let text = format!("{unit} does not lead {application}");
            refuse(json, text, json!({ "outcome": "not held", "application": application, "unit": unit }))
        }
        Err(error) => Err(failure(error)),
    }
}

/// Waits until no unit leads; a signal ends the wait.
fn wait(client: &BlockingLeaseClient, application: &str, json: bool) -> Result<(), CommandError> {
    let (stop, cancel) = (stop_on_signals()?, Cancel::new());
    let (waiter, given_up, name) = (client.clone(), cancel.clone(), application.to_owned());
    let waiting = start("lease-wait", move || waiter.block_until_leadership_released(&name, &given_up))?;
    while !waiting.is_finished() {
        if stop.load(Ordering::Relaxed) {
            cancel.cancel();
        }
        crate::node::rest();
    }
    match waiting.join().unwrap_or(Err(BlockError::BlockCancelled)) {
        Ok(()) => {
            let text = format!("{application} has no leader");
            say(json, text, json!({ "outcome": "released", "application": application }))
        }
        Err(error) => Err(failure(error)),
    }
}

#[expect(clippy::disallowed_methods, reason = "a call that blocks, beside the thread that hears signals")]
fn start<V: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> V + Send + 'static,
) -> Result<std::thread::JoinHandle<V>, CommandError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(CommandError::failed)
}

fn release(
    client: &BlockingLeaseClient,
    application: &str,
    unit: &str,
    token: u64,
    json: bool,
) -> Result<(), CommandError> {
    match client.release(application, unit, token) {
        Ok(()) => {
            let text = format!("{unit} has released {application}");
            say(json, text, json!({ "outcome": "released", "application": application, "unit": unit }))
        }
        Err(ReleaseError::Stale { current }) => {
            let text = format!("token {token} is stale: the present tenure of {application} has {current}");
            refuse(json, text, json!({ "outcome": "stale", "application": application, "token": current }))
        }
        Err(error) => Err(failure(error)),
    }
}
