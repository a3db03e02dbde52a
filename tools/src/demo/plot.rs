//! Round trips by percentile, as SVG.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

const SIZE: (u32, u32) = (960, 540);
/// Nines on the horizontal axis: 0 is the minimum, 1 is p90, 4 is p99.99.
const NINES: f64 = 5.0;
const POINTS: usize = 250;

/// Draws both histograms (ns) into a file.
pub(super) fn draw(
    path: &Path,
    one_at_a_time: &Histogram<u64>,
    windowed: &Histogram<u64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (low, high) = bounds(&[one_at_a_time, windowed]);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Order round trip by percentile", ("sans-serif", 22))
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
    for (histogram, color, name) in
        [(one_at_a_time, &BLUE, "one at a time"), (windowed, &RED, "128 outstanding")]
    {
        chart
            .draw_series(LineSeries::new(series(histogram), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
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

fn series(histogram: &Histogram<u64>) -> impl Iterator<Item = (f64, f64)> {
    (0..=POINTS).map(move |index| {
        let nines = NINES * index as f64 / POINTS as f64;
        let quantile = 1.0 - 10f64.powf(-nines);
        (nines, histogram.value_at_quantile(quantile).max(1) as f64 / 1e3)
    })
}

fn bounds(histograms: &[&Histogram<u64>]) -> (f64, f64) {
    let filled = histograms.iter().filter(|histogram| !histogram.is_empty());
    let low = filled.clone().map(|histogram| histogram.min()).min().unwrap_or(1_000).max(1);
    let high = filled.map(|histogram| histogram.value_at_quantile(0.99999)).max().unwrap_or(1_000_000);
    (low as f64 / 1.2e3, high as f64 * 1.2 / 1e3)
}
