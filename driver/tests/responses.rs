//! Response channels through the driver. Each requester gets its own answers (spec 02 §2.12, §7).

use crate::world::{World, free_address};
use harrier_client::{ClientError, ExclusivePublication, Subscription};

/// Stream of requests and stream of answers.
const REQUESTS: i32 = 40;
const ANSWERS: i32 = 41;

/// A requester with the publication of its requests and the subscription to the answers.
struct Requester {
    publication: ExclusivePublication,
    subscription: Subscription,
}

impl World {
    /// Creates a requester whose answers come through `answers`.
    fn requester(&mut self, requests: &str, answers: &str) -> Requester {
        let subscription = self.subscription(answers, ANSWERS).unwrap();
        let id = subscription.registration_id();
        let channel = with_parameter(requests, &format!("response-correlation-id={id}"));
        Requester { publication: self.exclusive(&channel, REQUESTS).unwrap(), subscription }
    }

    /// Returns the correlation id of the responder's image of a requester.
    fn image_of(&mut self, requests: &mut Subscription, requester: &Requester) -> i64 {
        let session_id = requester.publication.session_id();
        self.until("the image of the requests", |_| {
            requests.image_by_session_id(session_id).map(|image| image.correlation_id())
        })
    }

    /// Adds a publication that answers an image.
    fn answer(&mut self, answers: &str, image_id: i64) -> Result<ExclusivePublication, ClientError> {
        self.exclusive(&with_parameter(answers, &format!("response-correlation-id={image_id}")), ANSWERS)
    }

    fn publication_refusal(&mut self, channel: &str) -> (i32, String) {
        match self.exclusive(channel, ANSWERS) {
            Err(ClientError::Registration { code, message, .. }) => (code, message),
            other => panic!("{channel}: {other:?}"),
        }
    }
}

fn with_parameter(channel: &str, parameter: &str) -> String {
    format!("{channel}{}{parameter}", if channel.contains('?') { '|' } else { '?' })
}

/// Returns a channel with a free port.
fn control() -> String {
    format!("aeron:udp?control-mode=response|control={}", free_address())
}

/// Returns the subscription to the requests, its channel, and the channel of the answers.
fn channels(world: &mut World, is_ipc: bool) -> (Subscription, String, String) {
    let channel = if is_ipc { "aeron:ipc" } else { "aeron:udp?endpoint=127.0.0.1:0" };
    let requests = world.subscription(channel, REQUESTS).unwrap();
    let channel = world.until("the bound port", |client| requests.resolved_channel(client.counters()));
    (requests, channel, if is_ipc { "aeron:ipc?control-mode=response".to_owned() } else { control() })
}

#[test]
fn each_requester_gets_the_answers_to_its_own_requests() {
    for is_ipc in [true, false] {
        let mut world = World::new(|_| ());
        let (mut requests, channel, answers) = channels(&mut world, is_ipc);
        let mut requesters = [(); 2].map(|()| world.requester(&channel, &answers));
        // A stranger's stream on the same ids answers nobody.
        let stranger = is_ipc.then(|| world.exclusive("aeron:ipc", ANSWERS).unwrap());
        let mut responses: Vec<_> = requesters
            .iter()
            .map(|requester| {
                let image_id = world.image_of(&mut requests, requester);
                world.answer(&answers, image_id).unwrap()
            })
            .collect();
        for (requester, response) in requesters.iter_mut().zip(&mut responses) {
            world.exchange(&mut requester.publication, &mut requests, 100, 3_000);
            world.exchange(response, &mut requester.subscription, 100, 3_000);
            let sessions: Vec<_> =
                requester.subscription.images().iter().map(|image| image.session_id()).collect();
            assert_eq!(sessions, [response.session_id()]);
        }
        drop((stranger, responses));
        for requester in &mut requesters {
            world.until("the end of the answers", |_| {
                requester.subscription.poll(1, &mut |_, _| ());
                requester.subscription.images().is_empty().then_some(())
            });
        }
        drop((requesters, requests));
        let aeron = world.directory.path().join("aeron");
        world.until("the removal of all logs and sockets", |client| {
            let is_empty = |name| std::fs::read_dir(aeron.join(name)).unwrap().next().is_none();
            let mut channels = 0;
            client
                .counters()
                .for_each(&mut |_, type_id, _, _| channels += usize::from(type_id == 6 || type_id == 7));
            (is_empty("publications") && is_empty("images") && channels == 0).then_some(())
        });
    }
}

#[test]
fn a_requester_takes_another_answer_when_the_first_has_gone() {
    for is_ipc in [true, false] {
        let mut world = World::new(|_| ());
        let (mut requests, channel, answers) = channels(&mut world, is_ipc);
        let mut requester = world.requester(&channel, &answers);
        let image_id = world.image_of(&mut requests, &requester);
        for _ in 0..2 {
            let mut response = world.answer(&answers, image_id).unwrap();
            world.exchange(&mut response, &mut requester.subscription, 10, 100);
            drop(response);
            world.until("the end of the answers", |_| {
                requester.subscription.poll(1, &mut |_, _| ());
                requester.subscription.images().is_empty().then_some(())
            });
        }
    }
}

#[test]
fn responses_that_cannot_be_are_refused_as_by_peers() {
    let mut world = World::new(|_| ());
    let control = control();
    let (code, message) = world.publication_refusal(&control);
    let text = "control-mode=response was specified, but no response-correlation-id set";
    assert!(code == 11 && message.contains(text), "{message}");
    let endpoint = "aeron:udp?endpoint=127.0.0.1:9";
    for (channel, id, text) in [
        (&*control, -1, text),
        (&*control, 77, "image.correlationId=77 not found"),
        (endpoint, 123, "unable to find response subscription for response-correlation-id=123"),
    ] {
        let (code, message) = world.publication_refusal(&format!("{channel}|response-correlation-id={id}"));
        assert!(code == 11 && message.contains(text), "{message}");
    }
    for value in ["abc", "-2", ""] {
        let (code, message) =
            world.publication_refusal(&format!("{endpoint}|response-correlation-id={value}"));
        let text =
            "invalid response-correlation-id, must be a number greater than or equal to -1, or 'prototype'";
        assert!(code == 1 && message.contains(text), "{value}: {code} {message}");
    }
    let (code, message) = world.publication_refusal(&format!("{endpoint}|response-correlation-id=prototype"));
    let text = "unable to find response subscription for response-correlation-id=-2";
    assert!(code == 11 && message.contains(text), "{message}");
    // The sender of this image requests no response.
    let (mut requests, channel, _) = channels(&mut world, false);
    let plain = world.exclusive(&channel, REQUESTS).unwrap();
    let image_id = world.until("the image", |_| {
        requests.image_by_session_id(plain.session_id()).map(|image| image.correlation_id())
    });
    let (code, message) = world.publication_refusal(&format!("{control}|response-correlation-id={image_id}"));
    let text = format!("image.correlationId={image_id} did not request a response channel");
    assert!(code == 11 && message.contains(&text), "{message}");
    // A response subscription cannot share a socket with another subscription.
    let _first = world.subscription(&control, ANSWERS).unwrap();
    let other = control.replace("control-mode=response", "control-mode=dynamic");
    match world.subscription(&other, ANSWERS) {
        Err(ClientError::Registration { message, .. }) => {
            let text = "option conflicts with existing subscription: isResponse=false";
            assert!(message.contains(text), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prototype_holds_the_socket_of_responses_open() {
    let mut world = World::new(|_| ());
    let control = control();
    let prototype = format!("{control}|response-correlation-id=prototype|term-length=1m");
    let prototype = world.exclusive(&prototype, ANSWERS).unwrap();
    assert_eq!(prototype.term_buffer_length(), 64 << 10);
    let address = control.split("control=").nth(1).unwrap().to_owned();
    assert!(std::net::UdpSocket::bind(&address).is_err(), "{address} is free");
    let (mut requests, channel, _) = channels(&mut world, false);
    let mut requester = world.requester(&channel, &control);
    let image_id = world.image_of(&mut requests, &requester);
    let mut response = world.answer(&control, image_id).unwrap();
    assert_eq!(response.channel_status_id(), prototype.channel_status_id());
    world.exchange(&mut response, &mut requester.subscription, 10, 100);
    assert!(!prototype.is_connected());
    // Another kind of publication cannot share the socket.
    let other = control.replace("control-mode=response", "control-mode=dynamic");
    let (_, message) = world.publication_refusal(&other);
    assert!(message.contains("control-mode=response does not share a socket"), "{message}");
}
