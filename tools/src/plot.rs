//! Plots of times by percentile and of rates over time, as SVG.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::CommandError;

const SIZE: (u32, u32) = (960, 540);
/// Number of nines on the horizontal axis: 0 is the minimum, 1 is p90, 4 is p99.99.
const NINES: f64 = 5.0;
const POINTS: usize = 250;
const COLORS: [RGBColor; 4] = [BLUE, RED, GREEN, MAGENTA];

/// A line of a plot: its name and its points.
pub(crate) type Series<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws histograms of times (ns) by percentile into a file.
pub(crate) fn percentiles(
    path: &Path,
    title: &str,
    histograms: &[(&str, &Histogram<u64>)],
) -> Result<(), CommandError> {
    draw_percentiles(path, title, histograms)
        .map_err(|error| CommandError::Failed(format!("cannot draw {}: {error}", path.display())))
}

/// Draws values over time (s) into a file.
pub(crate) fn over_time(
    path: &Path,
    title: &str,
    unit: &str,
    series: &[Series<'_>],
) -> Result<(), CommandError> {
    draw_over_time(path, title, unit, series)
        .map_err(|error| CommandError::Failed(format!("cannot draw {}: {error}", path.display())))
}

fn draw_percentiles(
    path: &Path,
    title: &str,
    histograms: &[(&str, &Histogram<u64>)],
) -> Result<(), Box<dyn std::error::Error>> {
    let (low, high) = bounds(histograms);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(16)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..NINES, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(6)
        .x_label_formatter(&|nines| percent(*nines))
        .x_desc("percentile")
        .y_label_formatter(&|us| format!("{us:.0}"))
        .y_desc("µs")
        .draw()?;
    let series = histograms.iter().map(|(name, histogram)| (*name, by_nines(histogram).collect()));
    draw_lines(&mut chart, series, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

/// Draws series, each in its own colour, with a legend.
fn draw_lines<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    series: impl Iterator<Item = Series<'a>>,
    legend: SeriesLabelPosition,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for ((name, points), color) in series.zip(COLORS) {
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

fn draw_over_time(
    path: &Path,
    title: &str,
    unit: &str,
    series: &[Series<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let high = points().map(|point| point.1).fold(1e-9, f64::max) * 1.1;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(16)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..end, 0.0..high)?;
    chart.configure_mesh().x_desc("s").y_desc(unit).draw()?;
    draw_lines(&mut chart, series.iter().cloned(), SeriesLabelPosition::LowerRight)?;
    root.present()?;
    Ok(())
}

fn percent(nines: f64) -> String {
    match nines.round() as i32 {
        0 => "min".into(),
        1 => "90 %".into(),
        2 => "99 %".into(),
        more => format!("99.{} %", "9".repeat((more - 2).max(0) as usize)),
    }
}

fn by_nines(histogram: &Histogram<u64>) -> impl Iterator<Item = (f64, f64)> {
    (0..=POINTS).map(move |index| {
        let nines = NINES * index as f64 / POINTS as f64;
        let quantile = 1.0 - 10f64.powf(-nines);
        (nines, histogram.value_at_quantile(quantile).max(1) as f64 / 1e3)
    })
}

fn bounds(histograms: &[(&str, &Histogram<u64>)]) -> (f64, f64) {
    let filled = histograms.iter().map(|histogram| histogram.1).filter(|histogram| !histogram.is_empty());
    let low = filled.clone().map(|histogram| histogram.min()).min().unwrap_or(1_000).max(1);
    let high = filled.map(|histogram| histogram.value_at_quantile(0.99999)).max().unwrap_or(1_000_000);
    (low as f64 / 1.2e3, high as f64 * 1.2 / 1e3)
}
