//! The view on a terminal: it handles keys and reads a sample in each interval.

use std::sync::atomic::Ordering;
use std::time::Duration;

use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::sample::{Model, Sample};
use super::view::{View, render};
use crate::CommandError;
use crate::aeron_directory::DirectoryError;
use crate::node::stop_on_signals;
use crate::screen::{self, Screen};

/// Longest wait for a key, so that signals are noticed.
const KEY_WAIT_MS: u64 = 100;
/// Number of streams that a page key scrolls.
const PAGE: usize = 10;

/// Shows the model until a key or a signal ends it.
pub(super) fn run(
    mut model: Model,
    interval_ms: u64,
    see: impl Fn() -> Result<Sample, DirectoryError>,
) -> Result<(), CommandError> {
    let stop = stop_on_signals()?;
    let mut screen = Screen::open("--once prints one frame as text")?;
    let mut view = View::default();
    let interval_ns = interval_ms as i64 * 1_000_000;
    let mut next_ns = SystemClock.now().ns + interval_ns;
    while !stop.load(Ordering::Relaxed) {
        screen.draw(|frame| render(frame, &model, &view))?;
        let wait_ms = ((next_ns - SystemClock.now().ns) / 1_000_000).clamp(1, KEY_WAIT_MS as i64) as u64;
        if let Some(key) = screen.key(Duration::from_millis(wait_ms))?
            && on_key(&key, &mut view, &mut model)
        {
            return Ok(());
        }
        let now_ns = SystemClock.now().ns;
        if now_ns >= next_ns {
            next_ns = now_ns + interval_ns;
            if !view.is_paused {
                match see() {
                    Ok(sample) => model.add(sample),
                    Err(error) => model.trouble = Some(error.to_string()),
                }
            }
        }
    }
    Ok(())
}

/// Handles a key; returns true for the end.
fn on_key(key: &KeyEvent, view: &mut View, model: &mut Model) -> bool {
    if screen::is_quit(key) {
        return true;
    }
    let last = model.last.streams.len().saturating_sub(1);
    match key.code {
        KeyCode::Char('p' | ' ') => view.is_paused = !view.is_paused,
        KeyCode::Char('s') => view.sorting = view.sorting.next(),
        KeyCode::Char('z') => model.forget(),
        KeyCode::Down | KeyCode::Char('j') => view.scroll = (view.scroll + 1).min(last),
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::PageDown => view.scroll = (view.scroll + PAGE).min(last),
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(PAGE),
        KeyCode::Home => view.scroll = 0,
        _ => {}
    }
    false
}

/// One frame as text.
pub(super) fn frame(model: &Model, width: u16, height: u16) -> Result<String, CommandError> {
    screen::text_of(width, height, |frame| render(frame, model, &View::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::AeronDirectory;
    use crate::aeron_directory::tests::golden;
    use crate::top::Sorting;
    use harrier::ringbuf::Now;
    use ratatui::crossterm::event::KeyModifiers;

    fn model() -> Model {
        let golden = golden();
        let directory = AeronDirectory::open(golden.path()).unwrap();
        let epoch_ms = directory.heartbeat_ms() + 5;
        let mut model = Model::new("/dev/shm/aeron-golden".into());
        let first = Sample::take(&directory, &Now { ns: 0, epoch_ms });
        let mut second = Sample::take(&directory, &Now { ns: 2_000_000_000, epoch_ms: epoch_ms + 2_000 });
        second.counters[0].value += 8_192;
        let publication =
            second.streams.iter_mut().find(|stream| stream.stream_id == 42 && stream.is_publication());
        publication.unwrap().counters[0].value += 4_096;
        model.add(first);
        model.add(second);
        model
    }

    #[test]
    fn a_frame_shows_driver_network_duty_cycles_and_streams() {
        let text = frame(&model(), 160, 40).unwrap();
        for shown in [
            "harrier top  /dev/shm/aeron-golden",
            "pid 19140 alive",
            "2 distinct, last 02:37:57",
            "4.0 KiB/s",
            "6 streams by stream",
            "Conductor",
            "757.4 ms",
            "pub          42        1001             69,696     2.0 KiB/s",
            "aeron:udp?endpoint=127.0.0.1:24325",
            "q quit",
            "last error: io.aeron.exceptions.ConfigurationException: ERROR - mtuLength=1409",
        ] {
            assert!(text.contains(shown), "{shown} in\n{text}");
        }
        assert!(!text.contains("cluster "), "{text}");
    }

    #[test]
    fn a_cluster_is_shown_with_its_role_and_lag() {
        let mut model = model();
        let template = model.last.counters[0].clone();
        let counter = |id: i32, type_id: i32, value: i64, label: &str| {
            let mut record = template.clone();
            (record.id, record.type_id, record.value, record.label) = (id, type_id, value, label.to_owned());
            record.key = vec![0; 112];
            record
        };
        model.last.counters.extend([
            counter(900, 200, 1, "Consensus Module state - clusterId=0"),
            counter(901, 201, 2, "Cluster node role - clusterId=0"),
            counter(902, 203, 64_000, "Cluster commit-pos: - clusterId=0"),
            counter(903, 207, 17, "Cluster election state - clusterId=0"),
            counter(904, 239, 3, "Cluster leadership term id - clusterId=0"),
            counter(905, 241, 7, "cluster-session: sessionId=7"),
            counter(906, 100, 66_048, "rec-pos: 0 77 100 aeron:ipc - archiveId=1"),
            counter(907, 216, 1_500, "Cluster max cycle time in ns - clusterId=0"),
            counter(908, 217, 4, "Cluster work cycle time exceeded count: threshold=1s - clusterId=0"),
        ]);
        let text = frame(&model, 160, 40).unwrap();
        let line = text.lines().find(|line| line.contains("LEADER")).unwrap();
        for shown in ["ACTIVE", "closed", " 3 ", "64,000", "2.0 KiB"] {
            assert!(line.contains(shown), "{shown} in {line}");
        }
        let cycle = text.lines().find(|line| line.contains("1.5 µs")).unwrap();
        assert!(cycle.contains("Cluster") && cycle.contains(" 4"), "{cycle}");
    }

    #[test]
    fn small_terminals_and_dead_drivers_are_drawn_too() {
        let mut model = model();
        model.last.heartbeat_ms = -1;
        model.trouble = Some("no media driver in /x".into());
        for (width, height) in [(40, 10), (80, 24), (400, 100)] {
            let text = frame(&model, width, height).unwrap();
            assert!(text.contains("no media driver"), "{text}");
        }
        assert!(frame(&model, 120, 30).unwrap().contains("stopped"));
        frame(&Model::new("/x".into()), 120, 30).unwrap();
    }

    #[test]
    fn keys_sort_scroll_pause_and_quit() {
        let (mut model, mut view) = (model(), View::default());
        let mut press = |code: KeyCode, view: &mut View| {
            on_key(&KeyEvent::new(code, KeyModifiers::NONE), view, &mut model)
        };
        assert!(!press(KeyCode::Char('s'), &mut view) && view.sorting == Sorting::Rate);
        assert!(!press(KeyCode::PageDown, &mut view) && view.scroll == 5);
        assert!(!press(KeyCode::Up, &mut view) && view.scroll == 4);
        assert!(!press(KeyCode::Char('p'), &mut view) && view.is_paused);
        assert!(press(KeyCode::Char('q'), &mut view));
        assert!(!press(KeyCode::Char('z'), &mut view));
        assert_eq!((model.system_rate(0), model.history.len()), (0.0, 0));
    }
}
