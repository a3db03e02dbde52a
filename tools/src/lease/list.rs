//! `harrier lease list`: all leases, once or live.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use harrier::cluster::codec::TimeUnit;
use harrier::lease::client::{LeaseInfo, Leases, PinInfo};
use harrier::leases::BlockingLeaseClient;
use serde_json::{Value, json};

use crate::node::stop_on_signals;
use crate::watch::{CLEAR, rest_until};
use crate::{CommandError, print};

/// Arguments of `harrier lease list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Shows only this application.
    pub application: Option<String>,
    /// Repeats until a signal.
    #[arg(long)]
    pub watch: bool,
    /// Interval, ms.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub interval_ms: u64,
}

pub(super) fn run(
    arguments: &ListArguments,
    client: &BlockingLeaseClient,
    json: bool,
) -> Result<(), CommandError> {
    let see = || -> Result<(Leases, Vec<PinInfo>), CommandError> {
        let (mut leases, mut pins) = see(client)?;
        if let Some(application) = &arguments.application {
            leases.leases.retain(|lease| lease.application == *application);
            pins.retain(|pin| pin.application == *application);
        }
        Ok((leases, pins))
    };
    if !arguments.watch {
        let (leases, pins) = see()?;
        return if json {
            print::json(&document(&leases, &pins))
        } else {
            print::text(&table(&leases, &pins))
        };
    }
    let stop = stop_on_signals()?;
    let mut seen = see();
    while !stop.load(Ordering::Relaxed) {
        match (&seen, json) {
            (Ok((leases, pins)), true) => print::json(&document(leases, pins))?,
            (Ok((leases, pins)), false) => print::text(&format!("{CLEAR}{}", table(leases, pins)))?,
            (Err(error), true) => print::json(&json!({ "error": error.to_string() }))?,
            (Err(error), false) => print::text(&format!("{CLEAR}{error}\n"))?,
        }
        rest_until(Duration::from_millis(arguments.interval_ms), || stop.load(Ordering::Relaxed));
        seen = see();
    }
    Ok(())
}

/// Returns all leases by application, and all pins.
pub(super) fn see(client: &BlockingLeaseClient) -> Result<(Leases, Vec<PinInfo>), CommandError> {
    let mut leases = client.list().map_err(CommandError::failed)?;
    let pins = client.pinned().map_err(CommandError::failed)?;
    leases.leases.sort_by(|a, b| a.application.cmp(&b.application));
    Ok((leases, pins))
}

fn milliseconds(time: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Millis => time,
        TimeUnit::Micros => time / 1_000,
        TimeUnit::Nanos => time / 1_000_000,
    }
}

/// Returns the time until a lease ends, ms; `None` for one that does not end.
pub(super) fn left_ms(lease: &LeaseInfo, leases: &Leases) -> Option<i64> {
    (lease.token != 0 && lease.expiry != i64::MAX)
        .then(|| milliseconds(lease.expiry - leases.time, leases.time_unit).max(0))
}

/// Returns the claimed duration of a lease, ms; 0 without a holder.
pub(super) fn duration_ms(lease: &LeaseInfo, leases: &Leases) -> i64 {
    if lease.token == 0 { 0 } else { milliseconds(lease.duration, leases.time_unit) }
}

fn document(leases: &Leases, pins: &[PinInfo]) -> Value {
    let of = |application: &str| -> Vec<&str> {
        pins.iter().filter(|pin| pin.application == application).map(|pin| pin.entity.as_str()).collect()
    };
    json!({ "leases": leases.leases.iter().map(|lease| json!({
        "application": lease.application,
        "unit": (!lease.unit.is_empty()).then_some(&lease.unit),
        "token": (lease.token != 0).then_some(lease.token),
        "left_ms": left_ms(lease, leases),
        "duration_ms": (lease.token != 0).then(|| duration_ms(lease, leases)),
        "pins": of(&lease.application),
    })).collect::<Vec<_>>() })
}

fn table(leases: &Leases, pins: &[PinInfo]) -> String {
    let width = |name: fn(&LeaseInfo) -> usize, least: usize| {
        leases.leases.iter().map(name).max().unwrap_or(0).max(least)
    };
    let application = width(|lease| lease.application.chars().count(), 11);
    let unit = width(|lease| lease.unit.chars().count(), 6);
    let mut text = format!("{} applications\n", leases.leases.len());
    if leases.leases.is_empty() {
        return text;
    }
    let _infallible = writeln!(
        text,
        "{:application$}  {:unit$}  {:>20}  {:>12}  {:>12}  pinned by",
        "application", "leader", "token", "left", "duration"
    );
    for lease in &leases.leases {
        let left = match left_ms(lease, leases) {
            Some(left) => format!("{} ms", print::grouped(left)),
            None if lease.token == 0 => "-".to_owned(),
            None => "pinned".to_owned(),
        };
        let duration = if lease.token == 0 {
            "-".to_owned()
        } else {
            format!("{} ms", print::grouped(duration_ms(lease, leases)))
        };
        let token = if lease.token == 0 { "-".to_owned() } else { lease.token.to_string() };
        let leader = if lease.unit.is_empty() { "-" } else { &lease.unit };
        let entities: Vec<&str> = pins
            .iter()
            .filter(|pin| pin.application == lease.application)
            .map(|pin| pin.entity.as_str())
            .collect();
        let line = format!(
            "{:application$}  {leader:unit$}  {token:>20}  {left:>12}  {duration:>12}  {}",
            lease.application,
            entities.join(", ")
        );
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::lease) fn leases() -> (Leases, Vec<PinInfo>) {
        let lease = |application: &str, unit: &str, token: u64, expiry: i64, pins: u32| LeaseInfo {
            application: application.into(),
            unit: unit.into(),
            token,
            expiry,
            duration: if token == 0 { 0 } else { 10_000_000_000 },
            pins,
        };
        let leases = Leases {
            time: 5_000_000_000,
            time_unit: TimeUnit::Nanos,
            leases: vec![
                lease("book", "book/1", 4_096, 9_500_000_000, 0),
                lease("gateway-of-the-north", "", 0, 0, 1),
                lease("risk", "risk/0", 64, i64::MAX, 2),
            ],
        };
        let pin = |application: &str, entity: &str| PinInfo {
            application: application.into(),
            entity: entity.into(),
        };
        let pins = vec![pin("gateway-of-the-north", "upgrade"), pin("risk", "a"), pin("risk", "b")];
        (leases, pins)
    }

    #[test]
    fn a_table_and_a_document_say_the_same() {
        let (leases, pins) = leases();
        let text = table(&leases, &pins);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "3 applications");
        assert!(
            lines[2].contains("book/1") && lines[2].contains("4,500 ms") && lines[2].contains("10,000 ms")
        );
        assert!(lines[3].starts_with("gateway-of-the-north  -") && lines[3].ends_with("upgrade"), "{text}");
        assert!(lines[4].contains("pinned") && lines[4].ends_with("a, b"), "{text}");
        let document = document(&leases, &pins);
        assert_eq!(document["leases"][0]["left_ms"], 4_500);
        assert!(document["leases"][1]["unit"].is_null() && document["leases"][2]["left_ms"].is_null());
        assert_eq!(document["leases"][2]["pins"], json!(["a", "b"]));
    }
}
