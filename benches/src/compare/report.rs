//! What comparisons have found, kept as JSON and shown as `RESULTS.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use harrier::platform::core_count;
use serde_json::{Value, json};

use super::plan::{COMPARISONS, Comparison, Peer};
use super::statistics::{Ratio, Round, Tag, ratios, tolerance};
use crate::BenchError;

const INTRODUCTION: &str = "\
# Results

Written by `harrier-bench compare`; each number is a median of runs that took turns with the peer's, each row one group of
pairs with the cores as near (a cache line's round trip below 200 ns) or as far as they were. `ratio` is the median of the
pairs' ratios, ours to the peer's, with the smallest and the largest in brackets. Times are ns; rates are messages in a
second.
";

/// One figure of one comparison with one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Lane, such as `32 closed`.
    pub lane: String,
    /// Metric, such as `p50_ns`.
    pub metric: String,
    /// Where the cores were.
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
    /// Reads `RESULTS.json`; nothing when it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or is not ours.
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

    /// Puts the rounds of a comparison in the place of older ones.
    pub fn replace(&mut self, comparison: &Comparison, rounds: &[Round]) {
        let mut list = Vec::new();
        for lane in comparison.lanes {
            for (metric, _) in lane.bars {
                for (tag, ratio) in ratios(rounds, &lane.key(), metric) {
                    list.push(Entry { lane: lane.key(), metric: (*metric).to_owned(), tag, ratio });
                }
            }
        }
        self.entries.insert(comparison.name.to_owned(), list);
    }

    /// What was found for a comparison.
    pub fn of(&self, comparison: &Comparison) -> &[Entry] {
        self.entries.get(comparison.name).map_or(&[], Vec::as_slice)
    }

    /// By how much the A/A comparisons widen the bars.
    pub fn tolerance(&self) -> f64 {
        let own = COMPARISONS.iter().filter(|comparison| is_aa(comparison));
        tolerance(own.flat_map(|comparison| self.of(comparison)).map(|entry| &entry.ratio))
    }

    /// The results as JSON.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::Map::new();
        for (name, list) in &self.entries {
            object.insert(name.clone(), list.iter().map(json_of).collect());
        }
        Value::Object(object)
    }

    /// Writes `RESULTS.json` and `RESULTS.md` below `folder`.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(&self.to_json())
            .map_err(|error| BenchError::Engine(error.to_string()))?;
        std::fs::write(folder.join("RESULTS.json"), text + "\n")?;
        std::fs::write(folder.join("RESULTS.md"), self.to_markdown())?;
        Ok(())
    }

    /// The report.
    pub fn to_markdown(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let _ = writeln!(
            text,
            "\nMachine: {} virtual cores ({}), Linux {}.",
            core_count(),
            cpu_model(),
            kernel.trim()
        );
        let tolerance = self.tolerance();
        let is_proven = COMPARISONS.iter().any(|own| is_aa(own) && !self.of(own).is_empty());
        let trust = if !is_proven {
            "No program was compared with itself here (`harrier-bench aa`): how far the ratios may be trusted is not known."
                .to_owned()
        } else if tolerance > 0.0 {
            format!(
                "A program beside itself was off by more than 5 %: all bars are widened by {:.0} %.",
                tolerance * 100.0
            )
        } else {
            "A program beside itself was at 1 ± 0.05: bars are taken as they are.".to_owned()
        };
        let _ = writeln!(text, "\n{trust}");
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
            let _ = writeln!(text, "| bytes, mode | figure | cores | ours | peer | ratio | bar | |");
            let _ = writeln!(text, "| --- | --- | --- | ---: | ---: | --- | --- | --- |");
            for entry in list {
                text.push_str(&row(comparison, entry, tolerance));
            }
        }
        text
    }
}

/// True for a program beside itself.
fn is_aa(comparison: &Comparison) -> bool {
    comparison.lanes.iter().all(|lane| comparison.peer == Peer::Own(lane.benchmark))
}

fn row(comparison: &Comparison, entry: &Entry, tolerance: f64) -> String {
    let lane = comparison.lanes.iter().find(|lane| lane.key() == entry.lane);
    let bar = lane.and_then(|lane| lane.bars.iter().find(|(metric, _)| *metric == entry.metric));
    let (bar_text, verdict) = match bar {
        None => ("–".to_owned(), ""),
        Some((_, bar)) => {
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
        "| {} | {} | {} | {} | {} | {median:.2} ({low:.2}–{high:.2}; {pairs} pairs) | {bar_text} | {verdict} |\n",
        entry.lane,
        entry.metric,
        entry.tag,
        grouped(ours),
        grouped(theirs),
    )
}

/// A number with its thousands apart.
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
        "lane": entry.lane, "metric": entry.metric, "cores": entry.tag.to_string(), "ours": ours, "peer": theirs,
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

    fn results(median: f64, aa: f64) -> Results {
        let of =
            |median| Ratio { ours: 6_500.0, theirs: 7_000.0, median, low: median, high: median, pairs: 7 };
        let entry = |lane: &str, metric: &str, median| Entry {
            lane: lane.into(),
            metric: metric.into(),
            tag: Tag::Far,
            ratio: of(median),
        };
        let entries = BTreeMap::from([
            ("udp-rtt".to_owned(), vec![entry("32 closed", "p50_ns", median)]),
            ("aa-ring".to_owned(), vec![entry("64 stream", "msgs_per_s", aa)]),
        ]);
        Results { entries }
    }

    #[test]
    fn verdicts_follow_the_bars() {
        assert!(
            results(0.93, 1.0)
                .to_markdown()
                .contains("| 6,500 | 7,000 | 0.93 (0.93–0.93; 7 pairs) | ≤ 1 | held |")
        );
        assert!(results(1.05, 1.02).to_markdown().contains("**not held**"));
        let widened = results(1.05, 1.08).to_markdown();
        let unproven = Results::default().to_markdown();
        assert!(unproven.contains("compared with itself here"));
        assert!(widened.contains("held within the widened bar") && widened.contains("widened by 8 %"));
    }

    #[test]
    fn results_come_back_from_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let before = results(0.93, 1.0);
        before.save(folder.path()).unwrap();
        let after = Results::load(&folder.path().join("RESULTS.json")).unwrap();
        assert_eq!(before.entries, after.entries);
        assert!(Results::load(&folder.path().join("none")).unwrap().entries.is_empty());
        std::fs::write(folder.path().join("bad"), "[]").unwrap();
        assert!(Results::load(&folder.path().join("bad")).is_err());
    }
}
