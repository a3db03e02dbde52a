//! Results of comparisons, kept as JSON and shown as `RESULTS.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use harrier::platform::core_count;
use serde_json::{Value, json};

use super::plan::{Bar, COMPARISONS, Comparison, Peer};
use super::statistics::{Ratio, Round, Tag, ratios, tolerance};
use crate::BenchError;

const INTRODUCTION: &str = "\
# Results

Written by `harrier-bench compare`; each number is a median of runs that took turns with the peer's, each row one group of
pairs with the cores as near (a cache line's round trip below 200 ns) or as far as they were. `ratio` is the median of the
pairs' ratios, ours to the peer's, with the smallest and the largest in brackets. Times are ns; rates are messages in a
second. A new run takes the place of the rows of the same machine only.

![Ratios and bars](RESULTS.svg)
";

/// One figure of one comparison with one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Processor and number of cores.
    pub machine: String,
    /// Lane, such as `32 closed`.
    pub lane: String,
    /// Metric, such as `p50_ns`.
    pub metric: String,
    /// Distance of the cores.
    pub tag: Tag,
    /// The figure.
    pub ratio: Ratio,
}

/// Results of comparisons by name.
#[derive(Debug, Default)]
pub struct Results {
    entries: BTreeMap<String, Vec<Entry>>,
}

impl Results {
    /// Reads `RESULTS.json`; returns no results when it does not exist.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not ours.
    pub fn load(path: &Path) -> Result<Self, BenchError> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path)?;
        let wrong = || BenchError::Parameter(format!("{} is no file of results", path.display()));
        let value: Value = serde_json::from_str(&text).map_err(|_| wrong())?;
        let mut entries = BTreeMap::new();
        for (name, list) in value.as_object().ok_or_else(wrong)? {
            let list = list.as_array().ok_or_else(wrong)?;
            let read: Option<Vec<Entry>> = list.iter().map(entry_of).collect();
            entries.insert(name.clone(), read.ok_or_else(wrong)?);
        }
        Ok(Self { entries })
    }

    /// Replaces the older rounds of a comparison on `machine` by these.
    pub fn replace(&mut self, machine: &str, comparison: &Comparison, rounds: &[Round]) {
        let list = self.entries.entry(comparison.name.to_owned()).or_default();
        list.retain(|entry| entry.machine != machine);
        for lane in comparison.lanes {
            for (metric, _) in lane.bars {
                for (tag, ratio) in ratios(rounds, &lane.key(), metric) {
                    list.push(Entry {
                        machine: machine.to_owned(),
                        lane: lane.key(),
                        metric: (*metric).to_owned(),
                        tag,
                        ratio,
                    });
                }
            }
        }
    }

    /// Returns the results of a comparison.
    pub fn of(&self, comparison: &Comparison) -> &[Entry] {
        self.entries.get(comparison.name).map_or(&[], Vec::as_slice)
    }

    /// Returns all machines, in the order of their letters.
    pub fn machines(&self) -> Vec<&str> {
        let all: BTreeSet<&str> =
            self.entries.values().flatten().map(|entry| entry.machine.as_str()).collect();
        all.into_iter().collect()
    }

    /// Returns the share by which the A/A comparisons on a machine widen its bars; `None` without any.
    pub fn tolerance(&self, machine: &str) -> Option<f64> {
        let own: Vec<&Ratio> = COMPARISONS
            .iter()
            .filter(|comparison| is_aa(comparison))
            .flat_map(|comparison| self.of(comparison))
            .filter(|entry| entry.machine == machine)
            .map(|entry| &entry.ratio)
            .collect();
        (!own.is_empty()).then(|| tolerance(own))
    }

    /// The results as JSON.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::Map::new();
        for (name, list) in &self.entries {
            object.insert(name.clone(), list.iter().map(json_of).collect());
        }
        Value::Object(object)
    }

    /// Writes `RESULTS.json`, `RESULTS.md` and `RESULTS.svg` below `folder`.
    ///
    /// # Errors
    ///
    /// The files cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(&self.to_json())
            .map_err(|error| BenchError::Engine(error.to_string()))?;
        std::fs::write(folder.join("RESULTS.json"), text + "\n")?;
        std::fs::write(folder.join("RESULTS.md"), self.to_markdown())?;
        std::fs::write(folder.join("RESULTS.svg"), super::chart::of(self)?)?;
        Ok(())
    }

    /// The report.
    pub fn to_markdown(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        let machines = self.machines();
        text.push_str("\n| | machine | bars |\n| --- | --- | --- |\n");
        for machine in &machines {
            let trust = match self.tolerance(machine) {
                None => "no program was compared with itself there (`harrier-bench aa`)".to_owned(),
                Some(0.0) => "as they are: a program beside itself was at 1 ± 0.05".to_owned(),
                Some(share) => format!("widened by {:.0} %: so far was a program off itself", share * 100.0),
            };
            let _ = writeln!(text, "| {} | {machine} | {trust} |", letter(&machines, machine));
        }
        for comparison in COMPARISONS {
            let list = self.of(comparison);
            if list.is_empty() {
                continue;
            }
            let _ = writeln!(
                text,
                "\n## {}\n\n{}; peer: {}.\n\n    harrier-bench compare {}\n",
                comparison.name,
                comparison.about,
                comparison.peer.name(),
                comparison.name
            );
            let _ = writeln!(text, "| bytes, mode | figure | machine, cores | ours | peer | ratio | bar | |");
            let _ = writeln!(text, "| --- | --- | --- | ---: | ---: | --- | --- | --- |");
            for entry in list {
                let place = format!("{}, {}", letter(&machines, &entry.machine), entry.tag);
                text.push_str(&row(comparison, entry, &place, self.tolerance(&entry.machine).unwrap_or(0.0)));
            }
        }
        text
    }
}

/// Returns the name of this machine in the results.
pub fn this_machine() -> String {
    format!("{} virtual cores, {}", core_count(), cpu_model())
}

/// Returns the letter that stands for a machine in tables.
pub(super) fn letter(machines: &[&str], machine: &str) -> char {
    let index = machines.iter().position(|other| *other == machine).unwrap_or_default();
    char::from(b'A' + (index % 26) as u8)
}

impl Entry {
    /// Returns the bar of this figure.
    pub(super) fn bar(&self, comparison: &Comparison) -> Option<Bar> {
        let lane = comparison.lanes.iter().find(|lane| lane.key() == self.lane)?;
        lane.bars.iter().find(|(metric, _)| *metric == self.metric).map(|(_, bar)| *bar)
    }
}

/// True for a comparison of a program with itself.
fn is_aa(comparison: &Comparison) -> bool {
    comparison.lanes.iter().all(|lane| comparison.peer == Peer::Own(lane.benchmark))
}

fn row(comparison: &Comparison, entry: &Entry, place: &str, tolerance: f64) -> String {
    let (bar_text, verdict) = match entry.bar(comparison) {
        None => ("–".to_owned(), ""),
        Some(bar) => {
            let verdict = match (
                bar.holds(entry.tag, &entry.ratio, 0.0),
                bar.holds(entry.tag, &entry.ratio, tolerance),
            ) {
                (Some(true), _) => "held",
                (_, Some(true)) => "held within the widened bar",
                (_, Some(false)) => "**not held**",
                _ => "",
            };
            (bar.text(entry.tag), verdict)
        }
    };
    let Ratio { ours, theirs, median, low, high, pairs } = entry.ratio;
    format!(
        "| {} | {} | {place} | {} | {} | {median:.2} ({low:.2}–{high:.2}; {pairs} pairs) | {bar_text} | {verdict} |\n",
        entry.lane,
        entry.metric,
        grouped(ours),
        grouped(theirs),
    )
}

/// Formats a number with separated thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor").to_owned()
}

fn json_of(entry: &Entry) -> Value {
    let Ratio { ours, theirs, median, low, high, pairs } = entry.ratio;
    json!({
        "machine": entry.machine, "lane": entry.lane, "metric": entry.metric, "cores": entry.tag.to_string(), "ours": ours, "peer": theirs,
        "ratio": median, "low": low, "high": high, "pairs": pairs,
    })
}

fn entry_of(value: &Value) -> Option<Entry> {
    let number = |name: &str| value[name].as_f64();
    let tag = match value["cores"].as_str()? {
        "near" => Tag::Near,
        "far" => Tag::Far,
        _ => return None,
    };
    Some(Entry {
        machine: value["machine"].as_str()?.to_owned(),
        lane: value["lane"].as_str()?.to_owned(),
        metric: value["metric"].as_str()?.to_owned(),
        tag,
        ratio: Ratio {
            ours: number("ours")?,
            theirs: number("peer")?,
            median: number("ratio")?,
            low: number("low")?,
            high: number("high")?,
            pairs: value["pairs"].as_u64()? as usize,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "2 virtual cores, this one";

    fn of(median: f64) -> Ratio {
        Ratio { ours: 6_500.0, theirs: 7_000.0, median, low: median, high: median, pairs: 7 }
    }

    fn entry(machine: &str, lane: &str, metric: &str, median: f64) -> Entry {
        let (machine, lane, metric) = (machine.to_owned(), lane.to_owned(), metric.to_owned());
        Entry { machine, lane, metric, tag: Tag::Far, ratio: of(median) }
    }

    fn results(median: f64, aa: f64) -> Results {
        let entries = BTreeMap::from([
            ("udp-rtt".to_owned(), vec![entry(HERE, "32 closed", "p50_ns", median)]),
            ("aa-ring".to_owned(), vec![entry(HERE, "64 stream", "msgs_per_s", aa)]),
        ]);
        Results { entries }
    }

    #[test]
    fn verdicts_follow_the_bars() {
        assert!(
            results(0.93, 1.0)
                .to_markdown()
                .contains("| A, far | 6,500 | 7,000 | 0.93 (0.93–0.93; 7 pairs) | ≤ 1 | held |")
        );
        assert!(results(1.05, 1.02).to_markdown().contains("**not held**"));
        let widened = results(1.05, 1.08).to_markdown();
        assert!(widened.contains("held within the widened bar") && widened.contains("widened by 8 %"));
    }

    #[test]
    fn each_machine_has_its_rows_and_its_trust() {
        let mut results = results(1.05, 1.08);
        let comparison = COMPARISONS.iter().find(|comparison| comparison.name == "udp-rtt").unwrap();
        results.entries.get_mut("udp-rtt").unwrap().push(entry("another", "32 closed", "p50_ns", 1.05));
        let text = results.to_markdown();
        assert!(text.contains("| B | another | no program was compared with itself there"), "{text}");
        assert!(text.contains("| B, far | 6,500 | 7,000 | 1.05 (1.05–1.05; 7 pairs) | ≤ 1 | **not held** |"));
        results.replace("another", comparison, &[]);
        assert_eq!(results.of(comparison), [entry(HERE, "32 closed", "p50_ns", 1.05)]);
        assert_eq!(results.machines(), [HERE]);
    }

    #[test]
    fn results_come_back_from_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let before = results(0.93, 1.0);
        before.save(folder.path()).unwrap();
        let after = Results::load(&folder.path().join("RESULTS.json")).unwrap();
        assert_eq!(before.entries, after.entries);
        assert!(std::fs::read_to_string(folder.path().join("RESULTS.svg")).unwrap().contains("udp-rtt"));
        assert!(Results::load(&folder.path().join("none")).unwrap().entries.is_empty());
        std::fs::write(folder.path().join("bad"), "[]").unwrap();
        assert!(Results::load(&folder.path().join("bad")).is_err());
    }
}
