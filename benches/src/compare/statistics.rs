//! Pairs, tags, medians, bars.

use std::collections::BTreeMap;
use std::fmt;

/// Cache-line round trip below which cores are near, ns.
const NEAR_BELOW_NS: u64 = 200;
/// Greatest error of a ratio that should be 1.
const TRUSTED: f64 = 0.05;

/// Distance of the two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// A cache line takes less than 200 ns for the round trip.
    Near,
    /// A cache line takes longer.
    Far,
}

impl Tag {
    /// The tag of a cache line's round trip.
    pub fn of(round_trip_ns: u64) -> Self {
        if round_trip_ns < NEAR_BELOW_NS { Self::Near } else { Self::Far }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

/// Figures of one run, by lane and metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(pub BTreeMap<(String, &'static str), f64>);

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((lane, metric), value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{lane} {metric} {value:.0}")?;
        }
        Ok(())
    }
}

/// One turn of both programs, each with the tag from just before its run.
#[derive(Debug, Clone)]
pub struct Round {
    /// Our run.
    pub ours: (Tag, Samples),
    /// The peer's run.
    pub theirs: (Tag, Samples),
}

impl Round {
    /// Returns the tag, when both runs have the same one.
    pub fn tag(&self) -> Option<Tag> {
        (self.ours.0 == self.theirs.0).then_some(self.ours.0)
    }
}

/// Size of the larger group of pairs with one tag.
pub(super) fn largest_group(rounds: &[Round]) -> usize {
    [Tag::Near, Tag::Far]
        .iter()
        .map(|tag| rounds.iter().filter(|round| round.tag() == Some(*tag)).count())
        .max()
        .unwrap_or(0)
}

/// Ratios of one figure among the pairs of one tag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Median of our figures.
    pub ours: f64,
    /// Median of the peer's figures.
    pub theirs: f64,
    /// Median of the pairs' ratios, ours to the peer's.
    pub median: f64,
    /// Smallest ratio.
    pub low: f64,
    /// Largest ratio.
    pub high: f64,
    /// Number of pairs.
    pub pairs: usize,
}

/// Ratios of one figure by tag.
pub fn ratios(rounds: &[Round], lane: &str, metric: &'static str) -> BTreeMap<Tag, Ratio> {
    let mut found = BTreeMap::new();
    for tag in [Tag::Near, Tag::Far] {
        let pairs: Vec<(f64, f64)> = rounds
            .iter()
            .filter(|round| round.tag() == Some(tag))
            .filter_map(|round| {
                let of = |samples: &Samples| samples.0.get(&(lane.to_owned(), metric)).copied();
                of(&round.ours.1).zip(of(&round.theirs.1)).filter(|(_, theirs)| *theirs > 0.0)
            })
            .collect();
        let mut quotients: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        let Some(median_ratio) = median(&mut quotients) else { continue };
        let mut ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let mut theirs: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        found.insert(
            tag,
            Ratio {
                ours: median(&mut ours).unwrap_or(0.0),
                theirs: median(&mut theirs).unwrap_or(0.0),
                median: median_ratio,
                low: quotients[0],
                high: quotients[quotients.len() - 1],
                pairs: pairs.len(),
            },
        );
    }
    found
}

/// Sorts the values and returns the middle one, or the mean of the two middle ones of an even number.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count.is_multiple_of(2) => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// Returns the share by which bars are widened after A/A comparisons with these ratios: nothing while all are 1 ±
/// 0.05, else the largest deviation, rounded up to a percent.
pub fn tolerance<'a>(ratios: impl IntoIterator<Item = &'a Ratio>) -> f64 {
    let worst = ratios.into_iter().map(|ratio| (ratio.median - 1.0).abs()).fold(0.0, f64::max);
    // 1.05 has no exact binary representation.
    let worst = (worst * 1e6).round() / 1e6;
    if worst <= TRUSTED { 0.0 } else { (worst * 100.0).ceil() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: f64) -> Samples {
        Samples(BTreeMap::from([(("32 closed".to_owned(), "p50_ns"), value)]))
    }

    fn round(ours: (Tag, f64), theirs: (Tag, f64)) -> Round {
        Round { ours: (ours.0, samples(ours.1)), theirs: (theirs.0, samples(theirs.1)) }
    }

    #[test]
    fn only_runs_of_the_same_tag_are_a_pair() {
        let rounds = [
            round((Tag::Near, 1.0), (Tag::Near, 2.0)),
            round((Tag::Near, 100.0), (Tag::Far, 1.0)),
            round((Tag::Far, 9.0), (Tag::Far, 3.0)),
            round((Tag::Near, 3.0), (Tag::Near, 2.0)),
            round((Tag::Near, 1.0), (Tag::Near, 1.0)),
        ];
        assert_eq!(largest_group(&rounds), 3);
        let found = ratios(&rounds, "32 closed", "p50_ns");
        let near = found[&Tag::Near];
        assert_eq!((near.pairs, near.median, near.low, near.high), (3, 1.0, 0.5, 1.5));
        assert_eq!((near.ours, near.theirs), (1.0, 2.0));
        assert_eq!((found[&Tag::Far].pairs, found[&Tag::Far].median), (1, 3.0));
        assert!(ratios(&rounds, "288 closed", "p50_ns").is_empty());
        assert!(ratios(&rounds, "32 closed", "p99_ns").is_empty());
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_the_two() {
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 8.0]), Some(3.0));
        assert_eq!(median(&mut [5.0]), Some(5.0));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn cores_are_near_below_200_ns() {
        assert_eq!((Tag::of(199), Tag::of(200)), (Tag::Near, Tag::Far));
    }

    #[test]
    fn bars_widen_when_a_program_differs_from_itself() {
        let of = |median| Ratio { ours: 1.0, theirs: 1.0, median, low: median, high: median, pairs: 7 };
        assert_eq!(tolerance(&[of(0.96), of(1.05)]), 0.0);
        assert_eq!(tolerance(&[of(0.913), of(1.02)]), 0.09);
        assert_eq!(tolerance(&[of(1.121)]), 0.13);
    }
}
