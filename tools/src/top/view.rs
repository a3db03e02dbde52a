//! Drawing of the view.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::sample::{ClusterFacts, Model, StreamRow};
use crate::print;
use crate::screen::{BAD, DIM, GOOD, HEAD, WARN, key_help, name_plate, panel};

/// Order of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sorting {
    /// Stream id, then session.
    #[default]
    Stream,
    /// By bytes per second, highest first.
    Rate,
    /// By backlog, highest first.
    Backlog,
}

impl Sorting {
    /// Returns the next order.
    pub fn next(self) -> Self {
        match self {
            Self::Stream => Self::Rate,
            Self::Rate => Self::Backlog,
            Self::Backlog => Self::Stream,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Rate => "rate",
            Self::Backlog => "backlog",
        }
    }
}

/// State that keys change.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Order of the streams.
    pub sorting: Sorting,
    /// Index of the first stream that is shown.
    pub scroll: usize,
    /// No new samples are read.
    pub is_paused: bool,
}

/// Age from which a heartbeat means a driver in trouble, ms.
const OLD_HEARTBEAT_MS: i64 = 3_000;
/// Length from which a duty cycle is marked, ns.
const LONG_CYCLE_NS: i64 = 10_000_000;

/// Draws one frame.
pub fn render(frame: &mut Frame<'_>, model: &Model, view: &View) {
    let clusters = model.clusters();
    let cycles = model.duty_cycles();
    let side = (cycles.len().max(6) + 2).min(14) as u16;
    let cluster_rows = if clusters.is_empty() { 0 } else { clusters.len() as u16 + 3 };
    let [top, middle, cluster, table, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(side),
        Constraint::Length(cluster_rows),
        Constraint::Min(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, top, model, view);
    let [driver, network, duty] = Layout::horizontal([
        Constraint::Percentage(32),
        Constraint::Percentage(30),
        Constraint::Percentage(38),
    ])
    .areas(middle);
    driver_panel(frame, driver, model);
    network_panel(frame, network, model);
    duty_panel(frame, duty, model);
    if !clusters.is_empty() {
        cluster_panel(frame, cluster, &clusters);
    }
    stream_table(frame, table, model, view);
    footer(frame, bottom, model, view);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let last = &model.last;
    let age_ms = last.epoch_ms - last.heartbeat_ms;
    let (life, style) = match last.heartbeat_ms {
        0 => ("starting".to_owned(), WARN),
        -1 => ("stopped".to_owned(), BAD),
        _ if age_ms > OLD_HEARTBEAT_MS => (format!("no heartbeat for {} s", age_ms / 1_000), BAD),
        _ => ("alive".to_owned(), GOOD),
    };
    let mut spans = vec![
        name_plate("harrier top"),
        Span::raw(format!(" {}  ", model.path.display())),
        Span::styled("driver ", DIM),
        Span::raw(format!("pid {} ", last.pid)),
        Span::styled(life, style),
        Span::styled("  clients ", DIM),
        Span::raw(model.client_count().to_string()),
    ];
    if view.is_paused {
        spans.push(Span::styled("  PAUSED", WARN));
    }
    frame.render_widget(Line::from(spans), area);
    let time = Line::styled(format!("{} UTC ", print::time_of_day(last.epoch_ms)), DIM);
    frame.render_widget(time.alignment(Alignment::Right), area);
}

fn pair<'a>(name: &'a str, value: String, style: Style) -> Line<'a> {
    Line::from(vec![Span::styled(format!(" {name:<15}"), DIM), Span::styled(value, style)])
}

fn count_style(count: i64) -> Style {
    if count > 0 { BAD } else { GOOD }
}

fn driver_panel(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let last = &model.last;
    let naks = last.system(5) + last.system(6);
    let (distinct, at) = last.errors;
    let errors = if distinct == 0 {
        "none".to_owned()
    } else {
        format!("{distinct} distinct, last {}", print::time_of_day(at))
    };
    let mut lines = vec![
        pair("errors", errors, count_style(distinct as i64)),
        pair("lost", print::bytes(last.lost_bytes), count_style(last.lost_bytes)),
        pair("NAKs", print::grouped(naks), if naks > 0 { WARN } else { GOOD }),
        pair("retransmits", print::grouped(last.system(11)), Style::new()),
        pair("back pressure", format!("{} limits", print::grouped(last.system(18))), Style::new()),
        pair("mapped", print::bytes(last.system(35)), Style::new()),
    ];
    if let Some((recordings, replays, errors)) = model.archive() {
        let text = format!("{recordings} rec, {replays} replay, {errors} err");
        lines.insert(0, pair("archive", text, if errors > 0 { WARN } else { GOOD }));
    }
    frame.render_widget(Paragraph::new(lines).block(panel("driver")), area);
}

/// Formats bytes per second in three digits.
fn rate(bytes: f64) -> String {
    format!("{}/s", print::bytes(bytes as i64))
}

fn network_panel(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let (sent, received) = (model.system_rate(0), model.system_rate(1));
    let block = panel("network");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [out_text, out_chart, in_text, in_chart] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Fill(1),
    ])
    .areas(inner);
    let width = inner.width as usize;
    let chart = |pick: fn(&(f64, f64)) -> f64| -> Vec<u64> {
        let skip = model.history.len().saturating_sub(width);
        model.history[skip..].iter().map(|rates| pick(rates) as u64).collect()
    };
    frame.render_widget(pair("sent", rate(sent), Style::new().add_modifier(Modifier::BOLD)), out_text);
    frame.render_widget(Sparkline::default().data(chart(|rates| rates.0)).style(HEAD), out_chart);
    frame.render_widget(pair("received", rate(received), Style::new().add_modifier(Modifier::BOLD)), in_text);
    frame.render_widget(Sparkline::default().data(chart(|rates| rates.1)).style(GOOD), in_chart);
}

fn duty_panel(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.duty_cycles().into_iter().map(|duty_cycle| {
        let style = if duty_cycle.max_ns > LONG_CYCLE_NS { WARN } else { Style::new() };
        Row::new([
            Cell::from(duty_cycle.name),
            Cell::from(Line::styled(print::duration(duty_cycle.max_ns), style).alignment(Alignment::Right)),
            Cell::from(Line::raw(print::grouped(duty_cycle.exceeded)).alignment(Alignment::Right)),
        ])
    });
    let right = |text: &'static str| Cell::from(Line::raw(text).alignment(Alignment::Right));
    let table = Table::new(rows, [Constraint::Fill(1), Constraint::Length(10), Constraint::Length(8)])
        .header(Row::new([Cell::from("agent"), right("longest"), right("too long")]).style(DIM))
        .block(panel("duty cycles"));
    frame.render_widget(table, area);
}

fn cluster_panel(frame: &mut Frame<'_>, area: Rect, clusters: &[ClusterFacts]) {
    let rows = clusters.iter().map(|cluster| {
        let role = match cluster.role {
            "LEADER" => GOOD.add_modifier(Modifier::BOLD),
            "FOLLOWER" => Style::new(),
            _ => WARN,
        };
        let state = if cluster.state == "ACTIVE" { GOOD } else { WARN };
        let number = |text: String| Cell::from(Line::raw(text).alignment(Alignment::Right));
        Row::new([
            number(cluster.cluster_id.to_string()),
            Cell::from(Span::styled(cluster.role, role)),
            Cell::from(Span::styled(cluster.state, state)),
            Cell::from(Span::styled(
                if cluster.is_settled { "closed" } else { "election" },
                if cluster.is_settled { Style::new() } else { WARN },
            )),
            number(cluster.leadership_term_id.to_string()),
            number(print::grouped(cluster.commit_position)),
            number(rate(cluster.commit_rate)),
            number(print::bytes(cluster.commit_lag)),
            number(cluster.sessions.to_string()),
            Cell::from(
                Line::styled(cluster.errors.to_string(), count_style(cluster.errors))
                    .alignment(Alignment::Right),
            ),
        ])
    });
    let right = |text: &'static str| Cell::from(Line::raw(text).alignment(Alignment::Right));
    let head = Row::new([
        right("cluster"),
        Cell::from("role"),
        Cell::from("state"),
        Cell::from("election"),
        right("term"),
        right("commit position"),
        right("commit rate"),
        right("commit lag"),
        right("sessions"),
        right("errors"),
    ]);
    let widths = [7, 10, 11, 9, 6, 18, 14, 12, 9, 7].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(head.style(DIM)).block(panel("cluster")), area);
}

fn sorted(model: &Model, sorting: Sorting) -> Vec<StreamRow> {
    let mut rows = model.streams();
    match sorting {
        Sorting::Stream => {}
        Sorting::Rate => rows.sort_by(|a, b| b.rate.total_cmp(&a.rate)),
        Sorting::Backlog => rows.sort_by_key(|row| std::cmp::Reverse(row.backlog)),
    }
    rows
}

fn stream_table(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let all = sorted(model, view.sorting);
    let count = all.len();
    let scroll = view.scroll.min(count.saturating_sub(1));
    let rows = all.into_iter().skip(scroll).map(|candidate| {
        let number = |text: String| Cell::from(Line::raw(text).alignment(Alignment::Right));
        let kind = match candidate.kind {
            "pub" => HEAD,
            "img" => Style::new().fg(Color::Magenta),
            _ => GOOD,
        };
        let behind = if candidate.backlog > 0 { WARN } else { Style::new() };
        let has_no_room = candidate.room.is_some_and(|room| room == 0 && candidate.ends > 0);
        Row::new([
            Cell::from(Span::styled(candidate.kind, kind)),
            number(candidate.stream_id.to_string()),
            number(candidate.session_id.to_string()),
            number(print::grouped(candidate.position)),
            number(rate(candidate.rate)),
            Cell::from(Line::styled(print::bytes(candidate.backlog), behind).alignment(Alignment::Right)),
            Cell::from(
                Line::styled(
                    candidate.room.map_or_else(String::new, print::bytes),
                    if has_no_room { BAD } else { Style::new() },
                )
                .alignment(Alignment::Right),
            ),
            number(candidate.ends.to_string()),
            Cell::from(candidate.channel),
        ])
    });
    let right = |text: &'static str| Cell::from(Line::raw(text).alignment(Alignment::Right));
    let head = Row::new([
        Cell::from("end"),
        right("stream"),
        right("session"),
        right("position"),
        right("rate"),
        right("behind"),
        right("room"),
        right("ends"),
        Cell::from("channel"),
    ]);
    let fixed = [3, 11, 11, 18, 13, 11, 11, 4].map(Constraint::Length);
    let widths = fixed.into_iter().chain([Constraint::Fill(1)]);
    let title = format!("{count} streams by {}", view.sorting.name());
    frame.render_widget(Table::new(rows, widths).header(head.style(DIM)).block(panel(&title)), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    if let Some(trouble) = &model.trouble {
        return frame.render_widget(Line::styled(format!(" {trouble}"), BAD), area);
    }
    let pause = if view.is_paused { "go on" } else { "pause" };
    let mut spans =
        key_help(&[("q", "quit"), ("p", pause), ("s", "sort"), ("↑↓", "scroll"), ("z", "zero rates")]);
    if !model.last.last_error.is_empty() {
        spans.push(Span::styled(format!("  last error: {}", model.last.last_error), WARN));
    }
    frame.render_widget(Line::from(spans), area);
}
