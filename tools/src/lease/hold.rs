//! `harrier lease hold`: keeps a unit the leader and runs a program only while it leads.

use std::ffi::OsString;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use harrier::lease::{Fence, Tracker};
use harrier::leases::{LeaseTracker, TrackerStartError};
use harrier::platform::{SystemClock, ask_to_end, bind_to_parent, kill_group};
use harrier::ringbuf::Clock;
use serde_json::json;

use super::cluster::Session;
use super::{NO, SessionArguments, parse_duration, say};
use crate::CommandError;
use crate::node::{rest, stop_on_signals};

/// Name of the variable in which a program finds the fencing token.
pub const TOKEN_VARIABLE: &str = "HARRIER_FENCING_TOKEN";
/// Time before the end of the guarantee at which a program that has not ended is killed.
const KILL_MARGIN_NS: i64 = 20_000_000;

/// Arguments of `harrier lease hold`.
#[derive(Debug, Args)]
pub struct HoldArguments {
    /// The application.
    pub application: String,
    /// The unit, by custom APPLICATION/NUMBER.
    pub unit: String,
    /// Leadership is guaranteed for this long at any time; twice that is claimed, and renewed when half has passed.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time between SIGTERM and SIGKILL for a program whose unit stops leading; at most half of the duration.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub grace: Duration,
    /// Ends with 3 when another unit leads, instead of waiting to follow it.
    #[arg(long)]
    pub no_wait: bool,
    /// The program and its arguments. Without one the lease is held until a signal.
    #[arg(last = true, value_name = "COMMAND")]
    pub program: Vec<OsString>,
}

pub(super) fn run(
    arguments: &HoldArguments,
    session: &SessionArguments,
    json: bool,
) -> Result<(), CommandError> {
    if arguments.grace * 2 > arguments.duration {
        return Err(CommandError::Usage(format!(
            "grace {:?} is more than half of the duration {:?}: the program could outlive the guarantee",
            arguments.grace, arguments.duration
        )));
    }
    let stop = stop_on_signals()?;
    let session = Session::open(session)?;
    let (application, unit) = (arguments.application.as_str(), arguments.unit.as_str());
    let tracker = LeaseTracker::start_of(application, unit, arguments.duration, session.client.polled())
        .map_err(|error| match error {
            TrackerStartError::Invalid(invalid) => CommandError::Usage(invalid.to_string()),
            other => CommandError::failed(other),
        })?;
    let outcome = lead(arguments, &tracker, &stop, json);
    // A lost lease is over or ends by itself, and there may be nobody who could take it back.
    let stopped = tracker.stop(!matches!(outcome, Ok(End::Lost)));
    match outcome? {
        End::Told => Ok(()),
        End::Program(status) if status.success() => Ok(()),
        End::Program(status) => Err(CommandError::Failed(format!("the program has ended with {status}"))),
        End::Denied | End::Lost => Err(CommandError::Answer(NO)),
        End::Tracker => match stopped {
            Err(error) => Err(CommandError::failed(error)),
            Ok(()) => Err(CommandError::Failed("the tracker has stopped".into())),
        },
    }
}

/// How a hold ends.
enum End {
    Told,
    Program(ExitStatus),
    Denied,
    Lost,
    Tracker,
}

fn lead(
    arguments: &HoldArguments,
    tracker: &LeaseTracker,
    stop: &AtomicBool,
    json: bool,
) -> Result<End, CommandError> {
    let (leads, follows) = (tracker.wait_leader(), tracker.wait_minion());
    let mut named = None;
    let fence = loop {
        if let Some(fence) = tracker.fence() {
            break fence;
        }
        if leads.answer() == Some(false) {
            return Ok(End::Tracker);
        }
        let rival = tracker.rival();
        if let Some(held) = rival.filter(|held| named.replace(held.holder.id) != Some(held.holder.id)) {
            let (process, started_ms) = (&held.holder.name, held.holder.started_ms);
            let object = json!({ "outcome": "unit held", "unit": held.unit, "process": process, "started_ms": started_ms });
            let text =
                format!("{held}\nwaiting: the lease expires unless that process is alive and renews it");
            say(json, text, object)?;
        }
        if arguments.no_wait && follows.answer().is_some() {
            let text = format!("denied: another unit leads {}", arguments.application);
            let object = json!({ "outcome": "denied", "application": arguments.application });
            say(json, text, object)?;
            return Ok(End::Denied);
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(End::Told);
        }
        rest();
    };
    let (unit, application, token) = (&fence.unit, &fence.application, fence.token);
    let object = json!({ "outcome": "leads", "application": application, "unit": unit, "token": token });
    say(json, format!("{unit} leads {application}, token {token}"), object)?;
    let mut program = Running::start(arguments, &fence)?;
    let end = watch(arguments, tracker, &fence, &mut program, stop)?;
    if matches!(end, End::Lost) {
        let object = json!({ "outcome": "lost", "application": application, "unit": unit, "token": token });
        say(json, format!("{unit} has lost {application}"), object)?;
    }
    Ok(end)
}

/// Stays until the program ends, a signal comes, or the guarantee is about to end.
fn watch(
    arguments: &HoldArguments,
    tracker: &LeaseTracker,
    fence: &Fence,
    program: &mut Running,
    stop: &AtomicBool,
) -> Result<End, CommandError> {
    let grace_ns = arguments.grace.as_nanos() as i64;
    let mut until_ns = SystemClock.now().ns;
    loop {
        if let Some(status) = program.ended()? {
            return Ok(End::Program(status));
        }
        let now_ns = SystemClock.now().ns;
        if stop.load(Ordering::Relaxed) {
            program.end(now_ns + grace_ns)?;
            return Ok(End::Told);
        }
        // Another token is another tenure: in between another unit may have led.
        if tracker.fence().is_some_and(|present| present.token == fence.token)
            && let Some(guaranteed_ns) = tracker.guaranteed_until_ns()
        {
            until_ns = guaranteed_ns;
        } else {
            program.end(until_ns.min(now_ns + grace_ns))?;
            return Ok(End::Lost);
        }
        if now_ns >= until_ns - grace_ns - KILL_MARGIN_NS {
            program.end(until_ns - KILL_MARGIN_NS)?;
            return Ok(End::Lost);
        }
        rest();
    }
}

/// The program; killed when dropped before its end.
struct Running(Option<Child>);

impl Running {
    fn start(arguments: &HoldArguments, fence: &Fence) -> Result<Self, CommandError> {
        let Some((program, rest)) = arguments.program.split_first() else { return Ok(Self(None)) };
        let mut command = Command::new(program);
        command.args(rest).env(TOKEN_VARIABLE, fence.token.to_string());
        command.env("HARRIER_LEASE_APPLICATION", &fence.application).env("HARRIER_LEASE_UNIT", &fence.unit);
        let child = bind_to_parent(&mut command).spawn().map_err(|error| {
            CommandError::Failed(format!("cannot start {}: {error}", program.to_string_lossy()))
        })?;
        Ok(Self(Some(child)))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, CommandError> {
        let Some(child) = &mut self.0 else { return Ok(None) };
        let status = child.try_wait().map_err(CommandError::failed)?;
        if status.is_some() {
            self.0 = None;
        }
        Ok(status)
    }

    /// Asks the program to end and kills it when it still runs at `kill_at_ns`.
    fn end(&mut self, kill_at_ns: i64) -> Result<(), CommandError> {
        if let Some(child) = &self.0 {
            ask_to_end(child).map_err(CommandError::failed)?;
        }
        while self.0.is_some() && self.ended()?.is_none() && SystemClock.now().ns < kill_at_ns {
            rest();
        }
        self.kill();
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Processes that the group has left behind are killed too; the child is waited for only afterwards.
            let _gone = kill_group(&child);
            let _status = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
