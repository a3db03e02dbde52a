//! The examples do what they say.

#![allow(dead_code, reason = "the examples' own entry points are not called")]
#![allow(clippy::duplicate_mod, reason = "each example brings what it shares with the others")]

#[path = "../examples/counter.rs"]
mod counter;
#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/gateway.rs"]
mod gateway;
#[path = "../examples/request_response.rs"]
mod request_response;
#[path = "../examples/timers.rs"]
mod timers;
#[path = "../examples/two_services.rs"]
mod two_services;

fn base() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-example-").tempdir_in("/dev/shm").unwrap()
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
