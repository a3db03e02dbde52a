//! Exact behaviour of the consensus module towards clients (spec 04 §3.3–§3.5, §8.3).

use crate::rig::client::Heard;
use crate::rig::{Node, Plan, counter, directory, ports, value};
use harrier_cluster::codec::{EventCode, Ingress, PROTOCOL_VERSION};
use harrier_cluster::module::{
    Authenticator, AuthenticatorSupplier, Authorisation, AuthorisationService, SessionProxy,
};
use harrier_protocol::semantic_version;

fn start(plan: &Plan) -> (Node, tempfile::TempDir, Vec<u16>) {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, plan);
    node.until_leading();
    (node, directory, ports)
}

/// Requests a session and returns the event that answers.
fn answer(
    node: &mut Node,
    client: usize,
    version: i32,
    credentials: &'static [u8],
    code: EventCode,
) -> (i64, String) {
    node.until("the request", |node| node.clients[client].connect(7, version, credentials).then_some(()));
    node.until("the answer", |node| node.clients[client].event(code))
}

#[test]
fn clients_of_another_major_version_are_turned_away_and_those_of_before_are_not() {
    let (mut node, _directory, ports) = start(&Plan::default());
    let client = node.add_client(ports[0]);
    let (id, detail) = answer(&mut node, client, semantic_version(1, 2, 3), b"", EventCode::Error);
    assert_eq!((id, detail.as_str()), (1, "invalid client version 1.2.3, cluster is 0.3.0"));
    // Refused requests use up an id too.
    let (id, detail) = answer(&mut node, client, semantic_version(0, 2, 0), b"", EventCode::Ok);
    assert_eq!((id, detail.as_str()), (2, ""));
    let event = node.clients[client].heard.last().unwrap();
    assert!(matches!(event, Heard::Event { correlation_id: 7, .. }));
}

#[test]
fn a_challenge_is_asked_and_its_answer_becomes_the_principal() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Watch(std::sync::Arc<std::sync::Mutex<Vec<Vec<u8>>>>);
    impl AuthorisationService for Watch {
        fn is_authorised(
            &self,
            protocol_id: i32,
            action_id: i32,
            request_type: i32,
            principal: &[u8],
        ) -> bool {
            assert_eq!((protocol_id, action_id, request_type), (111, 26, 0));
            self.0.lock().unwrap().push(principal.to_vec());
            true
        }
    }
    let watch = seen.clone();
    let (mut node, _directory, ports) = start(&Plan::with(move |context| {
        context.authenticator = AuthenticatorSupplier::challenge("who?", "it-is-me");
        context.authorisation = Authorisation::new("watch", Watch(watch.clone()));
    }));
    let client = node.add_client(ports[0]);
    node.until("the request", |node| node.clients[client].connect(5, PROTOCOL_VERSION, b"").then_some(()));
    let (correlation_id, session_id) = node.until("the challenge", |node| {
        node.clients[client].heard.iter().find_map(|heard| match heard {
            Heard::Challenge { correlation_id, session_id, challenge } if challenge == b"who?" => {
                Some((*correlation_id, *session_id))
            }
            _ => None,
        })
    });
    assert_eq!((correlation_id, session_id), (5, 1));
    let response = harrier_cluster::codec::Ingress::ChallengeResponse {
        correlation_id: 6,
        session_id,
        credentials: b"it-is-me",
    };
    node.until("the response", |node| node.clients[client].send(&response).then_some(()));
    node.until("the session", |node| node.clients[client].event(EventCode::Ok));
    assert!(matches!(node.clients[client].heard.last(), Some(Heard::Event { correlation_id: 6, .. })));
    node.until("the admin request", |node| node.clients[client].admin(9, 0).then_some(()));
    node.await_value(counter::SNAPSHOTS, 1);
    assert_eq!(*seen.lock().unwrap(), [b"it-is-me".to_vec()]);
    let stranger = node.add_client(ports[0]);
    node.until("the request", |node| node.clients[stranger].connect(5, PROTOCOL_VERSION, b"").then_some(()));
    node.until("the challenge", |node| (!node.clients[stranger].heard.is_empty()).then_some(()));
    let wrong = harrier_cluster::codec::Ingress::ChallengeResponse {
        correlation_id: 6,
        session_id: 2,
        credentials: b"no",
    };
    node.until("the response", |node| node.clients[stranger].send(&wrong).then_some(()));
    let rejected =
        node.until("the rejection", |node| node.clients[stranger].event(EventCode::AuthenticationRejected));
    assert_eq!(rejected, (2, "session failed authentication".to_owned()));
}

#[test]
fn an_authenticator_may_take_its_time_and_a_client_that_waits_too_long_is_forgotten() {
    struct Slow {
        looks: usize,
    }
    impl Authenticator for Slow {
        fn on_connected_session(&mut self, session: &mut SessionProxy, _: i64) {
            if session.session_id() == 1 {
                self.looks += 1;
                if self.looks == 5 {
                    session.authenticate(b"late");
                }
            }
        }

        fn on_challenged_session(&mut self, _: &mut SessionProxy, _: i64) {}
    }
    let (mut node, _directory, ports) = start(&Plan::with(|context| {
        context.authenticator = AuthenticatorSupplier::new("slow", || Slow { looks: 0 });
        context.session_timeout_ns = 400_000_000;
        context.max_sessions = 2;
    }));
    let client = node.connect(ports[0]);
    let waiting = node.add_client(ports[0]);
    node.until("the request", |node| {
        node.clients[client].keep_alive();
        node.clients[waiting].connect_normally().then_some(())
    });
    node.until("the time-out", |node| {
        node.clients[client].keep_alive();
        node.is_at(counter::TIMED_OUT, 1).then_some(())
    });
    assert!(node.clients[waiting].heard.is_empty());
}

#[test]
fn principals_that_are_too_long_are_rejections() {
    struct Long;
    impl Authenticator for Long {
        fn on_connected_session(&mut self, session: &mut SessionProxy, _: i64) {
            session.authenticate(&vec![b'p'; if session.session_id() == 1 { 4_096 } else { 4_097 }]);
        }

        fn on_challenged_session(&mut self, _: &mut SessionProxy, _: i64) {}
    }
    let (mut node, _directory, ports) =
        start(&Plan::with(|context| context.authenticator = AuthenticatorSupplier::new("long", || Long)));
    node.connect(ports[0]);
    let client = node.add_client(ports[0]);
    answer(&mut node, client, PROTOCOL_VERSION, b"", EventCode::AuthenticationRejected);
}

#[test]
fn one_session_too_many_is_refused_and_a_place_that_is_free_is_taken() {
    let (mut node, _directory, ports) = start(&Plan::with(|context| context.max_sessions = 1));
    let first = node.connect(ports[0]);
    let second = node.add_client(ports[0]);
    let (id, detail) = answer(&mut node, second, PROTOCOL_VERSION, b"", EventCode::Error);
    assert_eq!((id, detail.as_str()), (2, "concurrent session limit"));
    node.send(first, "close");
    node.until("the close", |node| node.clients[first].event(EventCode::Closed));
    assert_eq!(node.clients[first].event(EventCode::Closed), Some((1, "SERVICE_ACTION".to_owned())));
    let (id, _) = answer(&mut node, second, PROTOCOL_VERSION, b"", EventCode::Ok);
    assert_eq!(id, 3);
}

#[test]
fn admin_requests_are_answered_in_the_words_of_the_released_cluster() {
    let admin = |node: &mut Node, client: usize, correlation_id: i64, request_type: i32| {
        node.until("the request", |node| {
            node.clients[client].admin(correlation_id, request_type).then_some(())
        });
        node.until("the response", |node| {
            node.clients[client].heard.iter().find_map(|heard| match heard {
                Heard::Admin { correlation_id: id, code, message, .. } if *id == correlation_id => {
                    Some((*code, message.clone()))
                }
                _ => None,
            })
        })
    };
    let (mut node, _directory, ports) = start(&Plan::default());
    let client = node.connect(ports[0]);
    let refused = admin(&mut node, client, 1, 0);
    assert_eq!(refused, (2, "Execution of the SNAPSHOT request was not authorised".to_owned()));
    assert!(node.is_at(counter::TOGGLE, value::NEUTRAL));
    let (mut node, _directory, ports) =
        start(&Plan::with(|context| context.authorisation = Authorisation::allow_all()));
    let client = node.connect(ports[0]);
    assert_eq!(admin(&mut node, client, 1, 0), (0, String::new()));
    node.await_value(counter::SNAPSHOTS, 1);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
    assert_eq!(admin(&mut node, client, 2, 5), (1, "Unknown request type: 5".to_owned()));
    // Of two simultaneous requests the second finds the toggle in use.
    node.until("both requests", |node| {
        let requester = &mut node.clients[client];
        (requester.admin(3, 0) && requester.admin(4, 0)).then_some(())
    });
    let second = node.until("the second response", |node| {
        node.clients[client].heard.iter().find_map(|heard| match heard {
            Heard::Admin { correlation_id: 4, code, message, .. } => Some((*code, message.clone())),
            _ => None,
        })
    });
    let text = "Failed to switch ClusterControl to the ToggleState.SNAPSHOT state";
    assert_eq!(second, (1, text.to_owned()));
    // Requests of an ended term get no answer.
    let term_id = std::mem::replace(&mut node.clients[client].term_id, 9);
    node.until("the request", |node| node.clients[client].admin(11, 0).then_some(()));
    node.clients[client].term_id = term_id;
    node.exchange(client, "ordered behind it");
    let is_answered = |heard: &Heard| matches!(heard, Heard::Admin { correlation_id: 11, .. });
    assert!(!node.clients[client].heard.iter().any(is_answered));
}

#[test]
fn a_session_whose_client_has_gone_ends_at_once() {
    let (mut node, _directory, ports) =
        start(&Plan::with(|context| context.session_timeout_ns = 3_600_000_000_000));
    let client = node.connect(ports[0]);
    let id = node.clients[client].session_id;
    node.clients.clear();
    node.until("the end of the session", |node| {
        node.has_seen(&format!("0 close {id} TIMEOUT")).then_some(())
    });
    node.await_value(counter::TIMED_OUT, 1);
}

#[test]
fn egress_goes_where_the_members_settings_say() {
    let (mut node, _directory, ports) =
        start(&Plan::with(|context| context.egress_channel = Some("aeron:udp?mtu=8k|alias=out".into())));
    node.connect(ports[0]);
    let mut labels = Vec::new();
    node.tool.counters().for_each(&mut |_, _, _, label| {
        if label.starts_with("pub-pos") && label.contains(" 102 ") {
            labels.push(label.to_owned());
        }
    });
    assert!(!labels.is_empty() && labels.iter().all(|label| label.contains("mtu=8k")), "{labels:?}");
}

#[test]
fn nobody_sends_in_the_name_of_a_session_whose_image_is_alive() {
    let (mut node, _directory, ports) = start(&Plan::default());
    let client = node.connect(ports[0]);
    node.exchange(client, "mine");
    let stranger = node.add_client(ports[0]);
    let (term_id, session_id) = (node.clients[client].term_id, node.clients[client].session_id);
    (node.clients[stranger].term_id, node.clients[stranger].session_id) = (term_id, session_id);
    let close = Ingress::Close { leadership_term_id: term_id, session_id };
    let refused = node.counter(counter::INGRESS_REFUSED).unwrap();
    node.until("the message", |node| node.clients[stranger].message("forged").then_some(()));
    node.until("the keep-alive", |node| node.clients[stranger].keep_alive().then_some(()));
    node.until("the request", |node| node.clients[stranger].admin(9, 0).then_some(()));
    node.until("the close", |node| node.clients[stranger].send(&close).then_some(()));
    node.await_value(counter::INGRESS_REFUSED, refused + 4);
    // The session continues, and no message of the other client entered the log.
    node.exchange(client, "mine too");
    assert!(!node.seen().iter().any(|line| line.contains("forged")), "{:?}", node.seen());
    assert_eq!(node.counter(counter::SNAPSHOTS), Some(0));
    // A session that is unknown or of another term is refused too.
    node.clients[stranger].session_id = 4_711;
    node.until("the message", |node| node.clients[stranger].message("nobody's").then_some(()));
    node.await_value(counter::INGRESS_REFUSED, refused + 5);
}

#[test]
fn undecodable_messages_are_counted_and_are_one_entry_of_the_error_log() {
    let (mut node, _directory, ports) = start(&Plan::default());
    let stranger = node.add_client(ports[0]);
    let refused = node.counter(counter::INGRESS_REFUSED).unwrap();
    for length in 1..=6 {
        node.until("the message", |node| {
            node.clients[stranger].send_bytes(&[0xFF; 8][..length]).then_some(())
        });
    }
    node.await_value(counter::INGRESS_REFUSED, refused + 6);
    let errors = node.logged_errors();
    let entries = errors.iter().filter(|text| text.contains("undecodable ingress message")).count();
    assert_eq!(entries, 1, "{errors:?}");
}
