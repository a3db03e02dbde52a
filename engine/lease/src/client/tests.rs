use super::requests::{Done, Kind, Offered, Pace, Requests};
use crate::claimer::RequestId;
use crate::codec::{Answer, AnswerCode, Event, LeaseEntry, PageWriter, Process, Request};
use crate::errors::{ClaimError, HeldUnit, Unanswered};

const SECOND: i64 = 1_000_000_000;

/// Requests, and the service that the test plays.
struct Wire {
    requests: Requests,
    sent: Vec<Vec<u8>>,
    is_open: bool,
    now_ns: i64,
}

impl Wire {
    fn new(limit: usize) -> Self {
        let pace = Pace { resend_ns: SECOND, rewait_ns: 10 * SECOND };
        Self { requests: Requests::new(limit, pace), sent: Vec::new(), is_open: true, now_ns: 100 }
    }

    fn claim(&mut self) -> RequestId {
        let request = Request::Claim {
            correlation_id: 0,
            duration_ns: SECOND,
            application: "a",
            unit: "a/0",
            process: Process::UNNAMED,
        };
        self.requests.begin(Kind::Claim, &request, self.now_ns, 5 * SECOND).unwrap()
    }

    fn wait(&mut self) -> RequestId {
        let request = Request::Wait { correlation_id: 0, token: 0, application: "a" };
        self.requests.begin(Kind::Wait, &request, self.now_ns, i64::MAX).unwrap()
    }

    fn run(&mut self, ns: i64) {
        self.now_ns += ns;
        self.requests.tick(self.now_ns, "no leader");
        let (sent, is_open) = (&mut self.sent, self.is_open);
        self.requests.send(self.now_ns, &mut |message| {
            if !is_open {
                return Offered::Later;
            }
            sent.push(message.to_vec());
            Offered::Sent
        });
    }

    fn last(&self) -> Request<'_> {
        Request::decode(self.sent.last().unwrap()).unwrap()
    }

    fn answer(&mut self, correlation_id: i64, code: AnswerCode, token: u64) {
        let answer = Answer { token, ..Answer::new(correlation_id, code) };
        self.hear(&Event::Answer(answer));
    }

    fn hear(&mut self, event: &Event<'_>) {
        self.requests.on_event(event, self.now_ns);
    }

    fn take(&mut self, id: RequestId) -> Option<Done> {
        self.requests.take(id, |_, _, done, _| done)
    }
}

#[test]
fn only_the_answer_to_the_last_attempt_denies() {
    // Spec 05 L2: an earlier attempt that was denied may have one behind it that is granted.
    let mut wire = Wire::new(4);
    let id = wire.claim();
    wire.run(0);
    let first = wire.last().correlation_id();
    wire.run(SECOND);
    let second = wire.last().correlation_id();
    assert_eq!((wire.sent.len(), first == second), (2, false));
    wire.answer(first, AnswerCode::Denied, 7);
    assert_eq!(wire.take(id), None);
    wire.answer(second, AnswerCode::Granted, 9);
    let done = wire.take(id);
    assert_eq!(done, Some(Done::Answer { code: AnswerCode::Granted, token: 9, limit: 0 }));
    assert_eq!(wire.take(id), None, "taken once");
}

#[test]
fn what_has_no_answer_says_why() {
    // Spec 05 L3.
    let mut wire = Wire::new(4);
    let sent = wire.claim();
    wire.run(0);
    wire.is_open = false;
    let unsent = wire.claim();
    wire.run(SECOND / 2);
    wire.run(5 * SECOND);
    let timeout_ns = 5 * SECOND;
    assert_eq!(wire.take(sent), Some(Done::Unanswered(Unanswered::TimedOut { timeout_ns })));
    let reason = "no leader".to_owned();
    let wanted = Unanswered::NotConnected { timeout_ns, reason };
    assert_eq!(wire.take(unsent), Some(Done::Unanswered(wanted)));
    let (id, waiting) = (wire.claim(), wire.wait());
    wire.requests.close();
    assert_eq!(wire.take(id), Some(Done::Unanswered(Unanswered::Closed)));
    assert_eq!(wire.take(waiting), Some(Done::Unanswered(Unanswered::Closed)));
}

#[test]
fn a_wait_is_registered_with_every_leader_for_the_tenure_that_it_began_with() {
    // Spec 05 L7.
    let mut wire = Wire::new(4);
    let id = wire.wait();
    wire.run(0);
    let sent_id = wire.last().correlation_id();
    wire.answer(sent_id, AnswerCode::Waiting, 64);
    wire.run(5 * SECOND);
    assert_eq!(wire.sent.len(), 1, "it is registered");
    wire.requests.on_new_leader();
    wire.run(0);
    assert_eq!(wire.last(), Request::Wait { correlation_id: sent_id, token: 64, application: "a" });
    wire.answer(sent_id, AnswerCode::Waiting, 64);
    // The client must not depend on the wake-up.
    wire.run(10 * SECOND);
    assert_eq!(wire.sent.len(), 3);
    assert_eq!(wire.take(id), None, "it never times out");
    wire.hear(&Event::Released { correlation_id: sent_id, token: 64 });
    assert_eq!(wire.take(id), Some(Done::Over));
}

#[test]
fn a_wait_that_is_given_up_is_cancelled_at_the_service() {
    let mut wire = Wire::new(1);
    let id = wire.wait();
    wire.requests.cancel(id, 0, SECOND);
    wire.run(0);
    assert!(wire.sent.is_empty(), "it was never sent");
    let id = wire.wait();
    wire.run(0);
    let correlation_id = wire.last().correlation_id();
    wire.requests.on_new_leader();
    wire.requests.cancel(id, wire.now_ns, SECOND);
    assert_eq!(wire.take(id), None);
    wire.run(0);
    assert_eq!(wire.last(), Request::CancelWait { correlation_id });
    // Its place is free again.
    wire.claim();
}

#[test]
fn requests_have_a_limit() {
    let mut wire = Wire::new(2);
    let (first, _second) = (wire.claim(), wire.claim());
    let request = Request::Check { correlation_id: 0, application: "a", unit: "a/0" };
    let outcome = wire.requests.begin(Kind::Once, &request, 0, SECOND);
    assert_eq!(outcome, Err(Unanswered::TooManyRequests { limit: 2 }));
    wire.requests.cancel(first, 0, SECOND);
    assert!(wire.requests.begin(Kind::Once, &request, 0, SECOND).is_ok());
    // One id, one request: the old one's has no meaning any more.
    assert_eq!(wire.take(first), None);
}

#[test]
fn lists_are_read_page_by_page() {
    let mut wire = Wire::new(1);
    let request = Request::List { correlation_id: 0, cursor: 0 };
    let id = wire.requests.begin(Kind::List, &request, 0, SECOND).unwrap();
    for (cursor, next) in [(0, 5), (5, -1)] {
        wire.run(0);
        let Request::List { correlation_id, cursor: asked } = wire.last() else { panic!() };
        assert_eq!(asked, cursor);
        let mut buffer = [0; 256];
        let mut page = PageWriter::leases(&mut buffer, correlation_id, 77, 1);
        let entry = LeaseEntry { token: 1, expiry: 2, duration: 3, pins: 0, application: "a", unit: "a/0" };
        assert!(page.lease(&entry));
        let length = page.finish(next);
        wire.hear(&Event::decode(&buffer[..length]).unwrap());
    }
    let leases = wire.requests.take(id, |_, _, done, listing| (done, listing.unwrap().leases)).unwrap();
    assert_eq!((leases.0, leases.1.time, leases.1.leases.len()), (Done::Listed, 77, 2));
}

#[test]
fn strange_answers_change_nothing() {
    let mut wire = Wire::new(2);
    let id = wire.claim();
    wire.run(0);
    for correlation_id in [0, -1, i64::MIN, i64::MAX, wire.last().correlation_id() + (1 << 20)] {
        wire.answer(correlation_id, AnswerCode::Granted, 1);
        wire.hear(&Event::Released { correlation_id, token: 1 });
    }
    wire.hear(&Event::Released { correlation_id: wire.last().correlation_id(), token: 1 });
    assert_eq!(wire.take(id), None);
    wire.requests.on_new_leader();
    wire.run(0);
    assert_eq!(wire.sent.len(), 2);
}

#[test]
fn l7_a_wait_fails_when_the_service_is_unreachable() {
    let mut wire = Wire::new(4);
    let request = Request::Wait { correlation_id: 0, token: 0, application: "a" };
    let id = wire.requests.begin(Kind::Wait, &request, wire.now_ns, 30 * SECOND).unwrap();
    // A service that answers each registration keeps the wait alive for as long as it likes.
    for _ in 0..20 {
        wire.run(10 * SECOND);
        wire.answer(wire.last().correlation_id(), AnswerCode::Waiting, 7);
        assert_eq!(wire.take(id), None);
    }
    // The service does not answer the next registrations.
    for _ in 0..3 {
        wire.run(10 * SECOND);
    }
    assert_eq!(wire.take(id), None, "30 s count from the registration that has no answer");
    wire.run(11 * SECOND);
    let timeout_ns = 30 * SECOND;
    assert_eq!(wire.take(id), Some(Done::Unanswered(Unanswered::TimedOut { timeout_ns })));
    assert!(!wire.requests.is_busy());
}

#[test]
fn l23_a_unit_of_another_process_is_refused_with_its_holder() {
    let mut wire = Wire::new(4);
    let id = wire.claim();
    wire.run(0);
    let holder = Process { id: 5, started_ms: 1_700_000_000_123, name: "pid 4711 on host-a" };
    let answer = Answer::new(wire.last().correlation_id(), AnswerCode::UnitHeld);
    wire.hear(&Event::Answer(Answer { holder, claimed: 9, ..answer }));
    let Some(Done::UnitHeld { holder, claimed: 9 }) = wire.take(id) else { panic!() };
    let held = HeldUnit { unit: "a/0".into(), holder, claimed: 9 };
    let text = ClaimError::UnitHeld(Box::new(held)).to_string();
    assert!(
        text.starts_with(
            "unit a/0 is held by another process: pid 4711 on host-a, started 2023-11-14 22:13:20"
        ),
        "{text}"
    );
}
