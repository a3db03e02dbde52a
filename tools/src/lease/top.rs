//! `harrier lease top`: all leases, live on a terminal.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use harrier::lease::client::{LeaseInfo, Leases, PinInfo};
use harrier::leases::BlockingLeaseClient;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::list::{duration_ms, left_ms, see};
use crate::node::stop_on_signals;
use crate::screen::{self, BAD, DIM, GOOD, HEAD, Screen, WARN, key_help, name_plate, panel, right};
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier lease --ingress 0=localhost:20110 top
  harrier lease --ingress 0=localhost:20110 top --interval-ms 200
  harrier lease --ingress 0=localhost:20110 top --once
      one frame as text

Keys: q quit, s sort by application, time left or take-overs, up and down (also k and j) scroll.
Take-overs are those since the view was opened.";

/// Time between two frames, ms. It is short, so that the remaining time of a lease decreases smoothly.
const FRAME_MS: i64 = 100;
/// Width of a bar, cells.
const BAR: usize = 16;
/// Share of a lease's duration below which it is about to end or to be renewed.
const NEAR_END: f64 = 0.2;
/// Number of leases that a page key scrolls.
const PAGE: usize = 10;

/// Arguments of `harrier lease top`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArguments {
    /// Interval of requests to the cluster, ms.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    pub interval_ms: u64,
    /// Prints one frame as text and ends.
    #[arg(long)]
    pub once: bool,
    /// Columns of the frame that --once prints.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u16).range(40..))]
    pub width: u16,
    /// Rows of the frame that --once prints.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(6..))]
    pub height: u16,
}

pub(super) fn run(arguments: &TopArguments, client: &BlockingLeaseClient) -> Result<(), CommandError> {
    let (leases, pins) = see(client)?;
    let mut model = Model::default();
    model.add(leases, pins, SystemClock.now().ns);
    if arguments.once {
        let view = View::default();
        let now_ns = SystemClock.now().ns;
        let text = screen::text_of(arguments.width, arguments.height, |frame| {
            render(frame, &model, &view, now_ns);
        })?;
        return print::text(&text);
    }
    let stop = stop_on_signals()?;
    let mut screen = Screen::open("--once prints one frame as text")?;
    let mut view = View::default();
    let interval_ns = arguments.interval_ms as i64 * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let now_ns = SystemClock.now().ns;
        if now_ns >= model.seen_ns + interval_ns {
            match see(client) {
                Ok((leases, pins)) => model.add(leases, pins, SystemClock.now().ns),
                Err(error) => {
                    (model.trouble, model.seen_ns) = (Some(error.to_string()), SystemClock.now().ns)
                }
            }
        }
        screen.draw(|frame| render(frame, &model, &view, SystemClock.now().ns))?;
        let wait_ms = ((model.seen_ns + interval_ns - SystemClock.now().ns) / 1_000_000).clamp(1, FRAME_MS);
        if let Some(key) = screen.key(Duration::from_millis(wait_ms as u64))?
            && on_key(&key, &mut view, model.leases.len())
        {
            break;
        }
    }
    Ok(())
}

/// Order of the leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sorting {
    #[default]
    Application,
    TimeLeft,
    Takeovers,
}

impl Sorting {
    fn next(self) -> Self {
        match self {
            Self::Application => Self::TimeLeft,
            Self::TimeLeft => Self::Takeovers,
            Self::Takeovers => Self::Application,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::TimeLeft => "time left",
            Self::Takeovers => "take-overs",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct View {
    sorting: Sorting,
    scroll: usize,
}

/// Handles a key; returns true for the end.
fn on_key(key: &KeyEvent, view: &mut View, count: usize) -> bool {
    let last = count.saturating_sub(1);
    match key.code {
        _ if screen::is_quit(key) => return true,
        KeyCode::Char('s') => view.sorting = view.sorting.next(),
        KeyCode::Down | KeyCode::Char('j') => view.scroll = (view.scroll + 1).min(last),
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::PageDown => view.scroll = (view.scroll + PAGE).min(last),
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(PAGE),
        KeyCode::Home => view.scroll = 0,
        _ => {}
    }
    false
}

/// A lease with its derived values.
#[derive(Debug, Clone)]
struct Entry {
    lease: LeaseInfo,
    left_ms: Option<i64>,
    duration_ms: i64,
    pinned_by: String,
}

/// Last tenure of an application that was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    token: u64,
    takeovers: u64,
}

/// State of the view.
#[derive(Debug, Default)]
struct Model {
    leases: Vec<Entry>,
    seen_ns: i64,
    tenures: BTreeMap<String, Seen>,
    trouble: Option<String>,
}

impl Model {
    fn add(&mut self, leases: Leases, pins: Vec<PinInfo>, now_ns: i64) {
        (self.seen_ns, self.trouble) = (now_ns, None);
        let entry = |lease: &LeaseInfo| {
            let entities = pins.iter().filter(|pin| pin.application == lease.application);
            let entities: Vec<&str> = entities.map(|pin| pin.entity.as_str()).collect();
            Entry {
                left_ms: left_ms(lease, &leases),
                duration_ms: duration_ms(lease, &leases),
                pinned_by: entities.join(", "),
                lease: lease.clone(),
            }
        };
        self.leases = leases.leases.iter().map(entry).collect();
        for entry in self.leases.iter().filter(|entry| entry.lease.token != 0) {
            let token = entry.lease.token;
            let seen =
                self.tenures.entry(entry.lease.application.clone()).or_insert(Seen { token, takeovers: 0 });
            seen.takeovers += u64::from(seen.token != token);
            seen.token = token;
        }
    }

    fn takeovers(&self, entry: &Entry) -> u64 {
        self.tenures.get(&entry.lease.application).map_or(0, |tenure| tenure.takeovers)
    }

    fn sorted(&self, sorting: Sorting) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.leases.iter().collect();
        match sorting {
            Sorting::Application => {}
            Sorting::TimeLeft => entries.sort_by_key(|entry| entry.left_ms.unwrap_or(i64::MAX)),
            Sorting::Takeovers => entries.sort_by_key(|entry| std::cmp::Reverse(self.takeovers(entry))),
        }
        entries
    }
}

fn render(frame: &mut Frame<'_>, model: &Model, view: &View, now_ns: i64) {
    let [top, table, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    header(frame, top, model);
    lease_table(frame, table, model, view, now_ns);
    if let Some(trouble) = &model.trouble {
        return frame.render_widget(Line::styled(format!(" {trouble}"), BAD), bottom);
    }
    frame.render_widget(Line::from(key_help(&[("q", "quit"), ("s", "sort"), ("↑↓", "scroll")])), bottom);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let held = model.leases.iter().filter(|entry| entry.lease.token != 0).count();
    let pinned = model.leases.iter().filter(|entry| entry.lease.pins > 0).count();
    let takeovers: u64 = model.tenures.values().map(|tenure| tenure.takeovers).sum();
    let mut spans = vec![name_plate("harrier lease top"), Span::raw(" ")];
    for (name, value) in [("held", held as u64), ("pinned", pinned as u64), ("take-overs", takeovers)] {
        spans.push(Span::styled(format!(" {name} "), DIM));
        spans.push(Span::raw(print::grouped(value as i64)));
    }
    frame.render_widget(Line::from(spans), area);
}

fn bar(share: f64) -> String {
    let full = ((share * BAR as f64).ceil() as usize).min(BAR);
    "█".repeat(full) + &"░".repeat(BAR - full)
}

fn lease_row(entry: &Entry, takeovers: u64, elapsed_ms: i64) -> Row<'_> {
    let has_holder = entry.lease.token != 0;
    let left_ms = entry.left_ms.map(|left| (left - elapsed_ms).max(0));
    let share = left_ms.map(|left| left as f64 / entry.duration_ms.max(1) as f64);
    let style = match share {
        Some(share) if share < NEAR_END => WARN,
        _ => GOOD,
    };
    let (bar, left) = match (has_holder, left_ms, share) {
        (true, Some(left), Some(share)) => (bar(share), format!("{} ms", print::grouped(left))),
        (true, ..) => ("█".repeat(BAR), "pinned".to_owned()),
        (false, ..) => ("░".repeat(BAR), "-".to_owned()),
    };
    let or_dash = |text: String| if has_holder { text } else { "-".to_owned() };
    Row::new([
        Cell::from(entry.lease.application.as_str()),
        Cell::from(Span::styled(or_dash(entry.lease.unit.clone()), HEAD)),
        right(or_dash(entry.lease.token.to_string()), Style::new()),
        Cell::from(Span::styled(bar, if has_holder { style } else { DIM })),
        right(left, style),
        right(or_dash(format!("{} ms", print::grouped(entry.duration_ms))), DIM),
        right(takeovers.to_string(), if takeovers > 0 { WARN } else { Style::new() }),
        Cell::from(entry.pinned_by.as_str()),
    ])
}

fn lease_table(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View, now_ns: i64) {
    let elapsed_ms = (now_ns - model.seen_ns) / 1_000_000;
    let entries = model.sorted(view.sorting);
    let width = |name: fn(&Entry) -> usize, least: usize| {
        Constraint::Length(entries.iter().map(|entry| name(entry)).max().unwrap_or(0).clamp(least, 32) as u16)
    };
    let widths = [
        width(|entry| entry.lease.application.chars().count(), 11),
        width(|entry| entry.lease.unit.chars().count(), 8),
        Constraint::Length(14),
        Constraint::Length(BAR as u16),
        Constraint::Length(13),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Fill(1),
    ];
    let head = Row::new([
        Cell::from("application"),
        Cell::from("leader"),
        right("token", DIM),
        Cell::from("left"),
        Cell::from(Line::raw("").alignment(Alignment::Right)),
        right("duration", DIM),
        right("take-overs", DIM),
        Cell::from("pinned by"),
    ]);
    let title = format!("{} applications by {}", entries.len(), view.sorting.name());
    let rows = entries
        .iter()
        .skip(view.scroll.min(entries.len().saturating_sub(1)))
        .map(|entry| lease_row(entry, model.takeovers(entry), elapsed_ms));
    let head = head.style(DIM.add_modifier(Modifier::ITALIC));
    frame.render_widget(Table::new(rows, widths).header(head).block(panel(&title)), area);
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::leases;
    use super::*;
    use ratatui::crossterm::event::KeyModifiers;

    fn shown(model: &Model, view: &View, now_ns: i64) -> String {
        screen::text_of(120, 12, |frame| render(frame, model, view, now_ns)).unwrap()
    }

    fn model() -> Model {
        let (leases, pins) = leases();
        let mut model = Model::default();
        model.add(leases, pins, 1_000_000_000);
        model
    }

    fn line<'t>(text: &'t str, part: &str) -> &'t str {
        text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in\n{text}"))
    }

    #[test]
    fn leases_run_down_between_two_looks() {
        let model = model();
        let text = shown(&model, &View::default(), 1_000_000_000);
        let book = line(&text, "book/1");
        assert!(book.contains("████████░░░░░░░░") && book.contains("4,500 ms"), "{book}");
        assert!(book.contains("10,000 ms") && book.contains(" 4096 "), "{book}");
        assert!(line(&text, "risk/0").contains("pinned") && line(&text, "risk/0").contains("a, b"));
        assert!(line(&text, "gateway-of-the-north").contains("upgrade"));
        assert!(line(&text, "harrier lease top").contains("held 2 pinned 2 take-overs 0"), "{text}");
        let text = shown(&model, &View::default(), 3_500_000_000);
        assert!(line(&text, "book/1").contains("2,000 ms"), "{text}");
        let text = shown(&model, &View::default(), i64::MAX / 2);
        assert!(line(&text, "book/1").contains(" 0 ms"), "{text}");
    }

    #[test]
    fn take_overs_are_counted_by_token() {
        let mut model = model();
        let (mut again, pins) = leases();
        (again.leases[0].unit, again.leases[0].token) = ("book/0".into(), 8_192);
        model.add(again.clone(), pins.clone(), 2_000_000_000);
        // The same tenure, and then no holder: neither is a new tenure.
        model.add(again.clone(), pins.clone(), 3_000_000_000);
        (again.leases[0].unit, again.leases[0].token) = (String::new(), 0);
        model.add(again, pins, 4_000_000_000);
        let view = View { sorting: Sorting::Takeovers, scroll: 0 };
        let text = shown(&model, &view, 4_000_000_000);
        assert!(text.contains("3 applications by take-overs") && text.contains("take-overs 1"), "{text}");
        assert!(text.lines().nth(3).unwrap().contains("book"), "{text}");
    }

    #[test]
    fn trouble_and_keys() {
        let mut model = model();
        model.trouble = Some("no answer within 5 s".into());
        let mut view = View::default();
        assert!(shown(&model, &view, 0).contains("no answer within 5 s"));
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert!(!on_key(&key(KeyCode::PageDown), &mut view, 3) && view.scroll == 2);
        assert!(!on_key(&key(KeyCode::Char('s')), &mut view, 3) && view.sorting == Sorting::TimeLeft);
        assert!(on_key(&key(KeyCode::Esc), &mut view, 3));
        shown(&Model::default(), &view, 0);
    }
}
