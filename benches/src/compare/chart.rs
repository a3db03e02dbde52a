//! Picture of the ratios and their bars.

use plotters::prelude::*;

use super::plan::{Bar, COMPARISONS};
use super::report::{Results, letter};
use super::statistics::Tag;
use crate::BenchError;

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 18;
/// Title, axis and margins.
const FRAME_HEIGHT: u32 = 110;
/// Ends of the axis, as factors.
const LEAST: f64 = 0.5;
const MOST: f64 = 256.0;
const HELD: RGBColor = RGBColor(46, 125, 80);
const NOT_HELD: RGBColor = RGBColor(192, 57, 43);

/// One line of the picture.
struct Line {
    label: String,
    /// Factor by which the figure is better than the peer's: lower times, higher rates.
    times: f64,
    /// Factor that the bar demands.
    wanted: f64,
    is_held: bool,
}

/// Draws all figures that have a bar relative to a peer, as SVG.
///
/// # Errors
///
/// [`BenchError::Engine`] when the picture cannot be drawn.
pub(super) fn of(results: &Results) -> Result<String, BenchError> {
    let lines = lines(results);
    let mut text = String::new();
    draw(&mut text, &lines)
        .map_err(|error| BenchError::Engine(format!("cannot draw the results: {error}")))?;
    Ok(text)
}

fn lines(results: &Results) -> Vec<Line> {
    let machines = results.machines();
    let mut lines = Vec::new();
    for comparison in COMPARISONS {
        for entry in results.of(comparison) {
            let Some(bar) = entry.bar(comparison) else { continue };
            let Some((times, wanted)) = advantage(bar, entry.tag, entry.ratio.median) else { continue };
            let tolerance = results.tolerance(&entry.machine).unwrap_or(0.0);
            lines.push(Line {
                label: format!(
                    "{} {} {} ({}, {})",
                    comparison.name,
                    entry.lane,
                    entry.metric,
                    letter(&machines, &entry.machine),
                    entry.tag
                ),
                times,
                wanted,
                is_held: bar.holds(entry.tag, &entry.ratio, tolerance) == Some(true),
            });
        }
    }
    lines
}

/// Returns the factor of a ratio and the factor that the bar demands; `None` for bars without a peer.
fn advantage(bar: Bar, tag: Tag, ratio: f64) -> Option<(f64, f64)> {
    match bar {
        Bar::AtMost(most) => Some((1.0 / ratio, 1.0 / most)),
        Bar::AtLeast(least) => Some((ratio, least)),
        Bar::AtLeastByTag(near, far) => Some((ratio, if tag == Tag::Near { near } else { far })),
        Bar::Under(_) | Bar::Shown => None,
    }
}

fn draw(text: &mut String, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let count = lines.len().max(1);
    let root =
        SVGBackend::with_string(text, (WIDTH, FRAME_HEIGHT + ROW_HEIGHT * count as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    // The labels are drawn by hand: the mesh would put them between the lines.
    let mut chart = ChartBuilder::on(&root)
        .caption("how many times better than the peer; the mark is the bar", ("sans-serif", 20))
        .margin(14)
        .margin_right(30)
        .x_label_area_size(36)
        .y_label_area_size(330)
        .build_cartesian_2d((LEAST..MOST).log_scale().base(2.0), 0.0..count as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(10)
        .x_label_formatter(&|times| format!("{times}×"))
        .draw()?;
    let label_style = ("sans-serif", 12).into_font().color(&BLACK);
    for (index, line) in lines.iter().enumerate() {
        let top = (count - index) as f64;
        let colour = if line.is_held { HELD } else { NOT_HELD };
        let times = line.times.clamp(LEAST, MOST);
        chart.draw_series([
            Rectangle::new([(1.0, top - 0.25), (times, top - 0.75)], colour.mix(0.8).filled()),
            Rectangle::new(
                [(line.wanted / 1.01, top - 0.05), (line.wanted * 1.01, top - 0.95)],
                BLACK.filled(),
            ),
        ])?;
        let (_, y) = chart.backend_coord(&(1.0, top - 0.25));
        root.draw_text(&line.label, &label_style, (16, y))?;
        root.draw_text(&format!("{:.2}", line.times), &label_style, {
            let (x, y) = chart.backend_coord(&(times.max(line.wanted).max(1.0), top - 0.25));
            (x + 6, y)
        })?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_times_and_higher_rates_are_better() {
        assert_eq!(advantage(Bar::AtMost(0.5), Tag::Far, 0.25), Some((4.0, 2.0)));
        assert_eq!(advantage(Bar::AtLeast(1.5), Tag::Far, 3.0), Some((3.0, 1.5)));
        assert_eq!(advantage(Bar::AtLeastByTag(1.7, 2.5), Tag::Near, 2.0), Some((2.0, 1.7)));
        assert_eq!(advantage(Bar::Under(5.0), Tag::Far, 1.0), None);
    }
}
