//! Runs the examples and checks their output.

#![allow(dead_code, reason = "the examples' own entry points are not called")]
#![allow(clippy::duplicate_mod, reason = "each example brings what it shares with the others")]

#[path = "../examples/counter.rs"]
mod counter;
#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/embedded_driver.rs"]
mod embedded_driver;
#[path = "../examples/entitlement.rs"]
mod entitlement;
#[path = "../examples/gateway.rs"]
mod gateway;
#[path = "../examples/multicast.rs"]
mod multicast;
#[path = "../examples/names.rs"]
mod names;
#[path = "../examples/publish_subscribe.rs"]
mod publish_subscribe;
#[path = "../examples/recording.rs"]
mod recording;
#[path = "../examples/request_response.rs"]
mod request_response;
#[path = "../examples/resume.rs"]
mod resume;
#[path = "../examples/stamps.rs"]
mod stamps;
#[path = "../examples/tap.rs"]
mod tap;
#[path = "../examples/timers.rs"]
mod timers;
#[path = "../examples/two_feeds.rs"]
mod two_feeds;
#[path = "../examples/two_services.rs"]
mod two_services;
#[path = "../examples/windows.rs"]
mod windows;

fn base() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-example-").tempdir_in("/dev/shm").unwrap()
}

#[test]
fn a_recording_is_replayed_followed_shortened_copied_and_purged() {
    let expected = [
        "recording 0 has 1000 messages",
        "replayed (100, 149)",
        "followed (1000, 1099)",
        "1 recording of aeron:ipc?term-length=64k|alias=orders, 140800 bytes",
        "purged 1 segment; the recording starts at 65536",
        "the copy has (512, 1049)",
        "unknown recording id: 0",
    ];
    assert_eq!(recording::run(base().path()).unwrap(), expected);
}

#[test]
fn echo_sends_everything_back() {
    assert_eq!(echo::run(base().path()).unwrap(), ["one", "two", "three"]);
}

#[test]
fn the_counter_goes_on_from_its_snapshot() {
    let summary = counter::run(base().path()).unwrap();
    assert_eq!(summary, counter::Summary { sum: 5_101, handled: 2 });
}

#[test]
fn reminders_come_in_the_order_of_their_deadlines() {
    assert_eq!(timers::run(base().path()).unwrap(), ["first", "middle", "last"]);
}

#[test]
fn the_auditor_hears_of_every_order_once_and_in_order() {
    let entries = two_services::run(base().path()).unwrap();
    assert_eq!(entries, ["1 1 100 apples", "2 1 7 pears", "3 1 12 plums"]);
}

#[test]
fn each_client_gets_the_answers_to_its_own_requests() {
    assert_eq!(request_response::run(base().path()).unwrap(), ["ONE", "TWO"]);
}

#[test]
fn the_book_refuses_the_late_orders_of_a_gateway_that_was_deposed() {
    let story = gateway::run(base().path()).unwrap();
    let (first, second) = story.tokens;
    assert!(second > first, "{story:?}");
    assert_eq!((story.active, story.successor), (gateway::Answer::Accepted, gateway::Answer::Accepted));
    assert_eq!(story.late, gateway::Answer::Stale { current_token: second });
}

#[test]
fn a_stream_carries_messages_of_every_kind() {
    let (texts, long) = publish_subscribe::run(base().path()).unwrap();
    assert_eq!(texts, ["in one piece", "in two parts", "in place"]);
    assert_eq!(long, 8_000);
}

#[test]
fn the_loss_of_one_feed_goes_unnoticed() {
    let story = two_feeds::run(base().path()).unwrap();
    let read = ["tick 1", "tick 2", "tick 3"].map(str::to_owned).to_vec();
    assert_eq!(story, two_feeds::Story { ways: 2, read });
}

#[test]
fn a_group_starts_when_it_is_whole_and_all_of_it_reads_all() {
    let story = multicast::run(base().path()).unwrap();
    let read = ["101.5", "101.7"].map(str::to_owned).to_vec();
    assert_eq!(story, multicast::Story { starts_with_one: false, read: [read.clone(), read] });
}

#[test]
fn who_looks_on_is_not_in_the_way() {
    let story = tap::run(base().path()).unwrap();
    assert_eq!(story, tap::Story { spied: 2, sent_meanwhile: 200, is_sleeper_released: true });
}

#[test]
fn a_publisher_hears_why_it_is_refused() {
    assert_eq!(entitlement::run(base().path()).unwrap(), "user=guest is not entitled");
}

#[test]
fn a_stream_goes_on_at_its_position_in_its_session() {
    let story = resume::run(base().path()).unwrap();
    assert_eq!(story.read, ["before", "after"]);
    assert!(story.positions.0 > 0 && story.positions.0 == story.positions.1, "{story:?}");
}

#[test]
fn a_driver_is_found_by_its_name() {
    assert_eq!(names::run(base().path()).unwrap(), ["found"]);
}

#[test]
fn messages_carry_their_times_in_order() {
    let ways = stamps::run(base().path()).unwrap();
    assert_eq!(ways.len(), 3);
    for way in &ways {
        assert!(0 < way.sent && way.sent <= way.arrived && way.arrived <= way.received, "{way:?}");
    }
}

#[test]
fn a_program_drives_its_driver_and_looks_into_it() {
    let sight = embedded_driver::run(base().path()).unwrap();
    assert_eq!(sight.text, "hello");
    assert_eq!(sight.labels, ["pub-pos (concurrent)", "pub-lmt", "sub-pos"]);
    assert!(sight.refusal.contains("nowhere"), "{}", sight.refusal);
}

#[test]
fn a_fixed_window_stays_and_a_cubic_one_grows() {
    let story = windows::run(base().path()).unwrap();
    assert_eq!(story.fixed, 32 << 10);
    assert!(story.cubic_at_last > story.cubic_at_first, "{story:?}");
}
