//! The counters of each resource: types, keys, labels, owners, and times of release (spec 02 §5.6, §5.7).

use std::collections::BTreeMap;

use harrier_client::Aeron;

use super::STREAM;
use crate::world::{World, free_address};

/// A counter as a reader of the CnC file sees it, without its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    type_id: i32,
    registration_id: i64,
    owner_id: i64,
    reference_id: i64,
    key: Vec<u8>,
    label: String,
}

/// Returns all counters except the system counters, by id. The text that a client appends to the label of its heartbeat
/// is left out.
fn rows(client: &Aeron) -> BTreeMap<i32, Row> {
    let counters = client.counters();
    let mut rows = BTreeMap::new();
    counters.for_each(&mut |id, type_id, key, label| {
        if type_id != 0 {
            let label = if type_id == 11 { label.split(" name=").next().unwrap() } else { label };
            let row = Row {
                type_id,
                registration_id: counters.registration_id(id),
                owner_id: counters.owner_id(id),
                reference_id: counters.reference_id(id),
                key: key.to_vec(),
                label: label.to_owned(),
            };
            rows.insert(id, row);
        }
    });
    rows
}

/// Returns the bytes of a key, filled up with zeros.
fn filled(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = parts.concat();
    key.resize(112, 0);
    key
}

/// Identity of a stream, from which all its counters have their keys and labels.
struct Stream<'a> {
    registration_id: i64,
    session_id: i32,
    channel: &'a str,
}

impl Stream<'_> {
    fn row(&self, type_id: i32, name: &str, owner_id: i64) -> Row {
        let Self { registration_id, session_id, channel } = *self;
        let cut = &channel.as_bytes()[..channel.len().min(92)];
        Row {
            type_id,
            registration_id,
            owner_id,
            reference_id: 0,
            key: filled(&[
                &registration_id.to_le_bytes(),
                &session_id.to_le_bytes(),
                &STREAM.to_le_bytes(),
                &(cut.len() as i32).to_le_bytes(),
                cut,
            ]),
            label: format!("{name}: {registration_id} {session_id} {STREAM} {channel}"),
        }
    }

    /// Returns the row of a subscriber that joined a source at 0.
    fn subscriber(&self, owner_id: i64, source_id: i64) -> Row {
        let row = self.row(4, "sub-pos", owner_id);
        Row { reference_id: source_id, label: format!("{} @0", row.label), ..row }
    }
}

/// Returns the row of a channel's status, with the bound address of its socket.
fn channel_row(type_id: i32, name: &str, registration_id: i64, channel: &str, bound: &str) -> Row {
    let cut = &channel.as_bytes()[..channel.len().min(108)];
    Row {
        type_id,
        registration_id,
        owner_id: 0,
        reference_id: 0,
        key: filled(&[&(cut.len() as i32).to_le_bytes(), cut]),
        label: format!("{name}: {channel} {bound}"),
    }
}

fn address_row(name: &str, registration_id: i64, status_id: i32, bound: &str) -> Row {
    let length = bound.len() as i32;
    Row {
        type_id: 14,
        registration_id,
        owner_id: 0,
        reference_id: 0,
        key: filled(&[&status_id.to_le_bytes(), &length.to_le_bytes(), bound.as_bytes()]),
        label: format!("{name}: {status_id} {bound}"),
    }
}

fn heartbeat(client_id: i64) -> Row {
    Row {
        type_id: 11,
        registration_id: client_id,
        owner_id: client_id,
        reference_id: 0,
        key: filled(&[&client_id.to_le_bytes()]),
        label: format!("client-heartbeat: id={client_id}"),
    }
}

/// Asserts that exactly these counters exist, in any order.
fn assert_rows(world: &World, mut expected: Vec<Row>) {
    let mut found: Vec<_> = rows(&world.client).into_values().collect();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

#[test]
fn network_streams_have_counters_of_publication_image_reader_spy_channels_and_client() {
    let mut world = World::new(|_| ());
    let client_id = world.client.client_id();
    let bound = free_address().to_string();
    // The channel is longer than a key has room for.
    let channel = format!("aeron:udp?endpoint={bound}|term-length=64k|alias={}", "x".repeat(100));
    let spied = format!("aeron-spy:{channel}");
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let publication = world.exclusive(&channel, STREAM).unwrap();
    let mut spy = world.subscription(&spied, STREAM).unwrap();
    let image_id = world.until("both images", |_| {
        spy.images().first()?;
        subscription.images().first().map(|image| image.correlation_id())
    });
    let local = publication.local_socket_addresses(world.client.counters()).remove(0);
    let (id, session_id) = (publication.registration_id(), publication.session_id());
    let stream = |registration_id| Stream { registration_id, session_id, channel: &channel };
    let spying = Stream { registration_id: spy.registration_id(), session_id, channel: &spied };
    let (send_status, receive_status) = (publication.channel_status_id(), subscription.channel_status_id());
    let subscription_id = subscription.registration_id();
    let mut expected = vec![
        stream(id).row(12, "pub-pos (exclusive)", client_id),
        stream(id).row(1, "pub-lmt", client_id),
        stream(id).row(2, "snd-pos", client_id),
        stream(id).row(9, "snd-lmt", client_id),
        stream(id).row(13, "snd-bpe", client_id),
        stream(id).row(19, "snd-naks-received", client_id),
        stream(image_id).row(3, "rcv-hwm", client_id),
        stream(image_id).row(5, "rcv-pos", client_id),
        stream(image_id).row(20, "rcv-naks-sent", client_id),
        stream(subscription_id).subscriber(client_id, image_id),
        spying.subscriber(client_id, id),
        channel_row(6, "snd-channel", id, &channel, &local),
        address_row("snd-local-sockaddr", id, send_status, &local),
        channel_row(7, "rcv-channel", subscription_id, &channel, &bound),
        address_row("rcv-local-sockaddr", subscription_id, receive_status, &bound),
        heartbeat(client_id),
    ];
    for row in &mut expected {
        row.label.truncate(380);
    }
    assert_rows(&world, expected);
    for id in [send_status, receive_status] {
        assert_eq!(world.client.counters().value(id), 1, "an open channel is active");
    }
    drop((publication, spy, subscription));
    world.until("the end of all but the client's", |client| (rows(client).len() == 1).then_some(()));
    world.pass(2);
    assert_rows(&world, vec![heartbeat(client_id)]);
}

#[test]
fn a_client_writes_its_name_and_version_behind_its_heartbeat() {
    let mut world = World::new(|_| ());
    let _subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let heartbeat = *rows(&world.client).iter().find(|(_, row)| row.type_id == 11).unwrap().0;
    let expected = format!("client-heartbeat: id={} name= version=1.51.0 commit=", world.client.client_id());
    world.until("the client's name", |client| {
        client.counters().label(heartbeat).starts_with(&expected).then_some(())
    });
    // The client appends the text only once, and the heartbeat advances.
    let before = (world.client.counters().label(heartbeat), world.client.counters().value(heartbeat));
    world.pass(1);
    assert_eq!(world.client.counters().label(heartbeat), before.0);
    assert!(world.client.counters().value(heartbeat) >= before.1 + 500);
}

#[test]
fn ipc_streams_and_counters_of_users_have_theirs() {
    let mut world = World::new(|_| ());
    let client_id = world.client.client_id();
    let channel = "aeron:ipc?alias=short";
    let publication = world.publication(channel, STREAM).unwrap();
    let subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let user = world.client.add_counter(1_001, &[1, 2, 3], "of a user").unwrap();
    let user = world.until("the counter", |client| client.counter(user).unwrap());
    let fixed = world.client.add_static_counter(1_002, &[4], "static", 4_711).unwrap();
    let fixed = world.until("the counter", |client| client.counter(fixed).unwrap());
    let (id, session_id) = (publication.registration_id(), publication.session_id());
    let stream = Stream { registration_id: id, session_id, channel };
    let reader = Stream { registration_id: subscription.registration_id(), session_id, channel: "aeron:ipc" };
    let row = |type_id, registration_id, owner_id, key: &[u8], label: &str| Row {
        type_id,
        registration_id,
        owner_id,
        reference_id: 0,
        key: filled(&[key]),
        label: label.to_owned(),
    };
    let of_user = row(1_001, user.registration_id(), client_id, &[1, 2, 3], "of a user");
    let of_all = row(1_002, 4_711, -1, &[4], "static");
    let expected = vec![
        stream.row(12, "pub-pos (concurrent)", client_id),
        stream.row(1, "pub-lmt", client_id),
        reader.subscriber(client_id, id),
        heartbeat(client_id),
        of_user,
        of_all.clone(),
    ];
    assert_rows(&world, expected);
    drop((publication, subscription, user, fixed));
    world.until("the end of all but two", |client| (rows(client).len() == 2).then_some(()));
    // A static counter outlives the client that added it.
    assert_rows(&world, vec![heartbeat(client_id), of_all]);
}

#[test]
fn destinations_and_receivers_of_a_group_are_counted() {
    let mut world = World::new(|_| ());
    let client_id = world.client.client_id();
    let address = free_address();
    let channel = "aeron:udp?control-mode=manual|fc=min|term-length=64k";
    let mut subscription = world.subscription(&format!("aeron:udp?endpoint={address}"), STREAM).unwrap();
    let mut publication = world.exclusive(channel, STREAM).unwrap();
    let (id, session_id) = (publication.registration_id(), publication.session_id());
    let find = |client: &Aeron, type_id: i32| {
        rows(client).into_iter().find(|(_, row)| row.type_id == type_id).expect("a counter of the type")
    };
    let (destinations, row) = find(&world.client, 18);
    let cut = channel.as_bytes();
    assert_eq!((row.registration_id, row.owner_id), (id, 0));
    assert_eq!(row.key, filled(&[&(cut.len() as i32).to_le_bytes(), cut]));
    assert_eq!(row.label.trim_end(), format!("mdc-num-dest: {channel}"));
    let (receivers, row) = find(&world.client, 17);
    assert_eq!(row, Stream { registration_id: id, session_id, channel }.row(17, "fc-receivers", -1));
    let values = |world: &World| {
        let counters = world.client.counters();
        (counters.value(destinations), counters.value(receivers))
    };
    assert_eq!(values(&world), (0, 0));
    let added = world.client.add_destination(id, &format!("aeron:udp?endpoint={address}"));
    world.done(added).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    assert_eq!(values(&world), (1, 1));
    let removed = world.client.remove_destination(id, &format!("aeron:udp?endpoint={address}"));
    world.done(removed).unwrap();
    world.step();
    assert_eq!(values(&world).0, 0);
    world.until("the end of the receiver", |client| (client.counters().value(receivers) == 0).then_some(()));
    drop((publication, subscription));
    world.until("the end of all", |client| (rows(client).len() == 1).then_some(()));
    assert_rows(&world, vec![heartbeat(client_id)]);
}

#[test]
fn receive_destinations_have_a_channel_with_an_address_each() {
    let mut world = World::new(|_| ());
    let channel = "aeron:udp?control-mode=manual";
    let subscription = world.subscription(channel, STREAM).unwrap();
    let id = subscription.registration_id();
    let status_id = subscription.channel_status_id();
    let of_channel = |world: &World| -> Vec<Row> {
        rows(&world.client).into_values().filter(|row| [7, 14].contains(&row.type_id)).collect()
    };
    assert_eq!(of_channel(&world), [channel_row(7, "rcv-channel", id, channel, "")]);
    let addresses = [free_address(), free_address()].map(|address| address.to_string());
    for address in &addresses {
        let added = world.client.add_rcv_destination(id, &format!("aeron:udp?endpoint={address}"));
        world.done(added).unwrap();
    }
    let found: Vec<_> = of_channel(&world).into_iter().filter(|row| row.type_id == 14).collect();
    assert_eq!(found.len(), 2);
    for (row, address) in found.iter().zip(&addresses) {
        let expected = address_row("rcv-local-sockaddr", row.registration_id, status_id, address);
        assert_eq!(*row, expected);
    }
    let removed = world.client.remove_rcv_destination(id, &format!("aeron:udp?endpoint={}", addresses[0]));
    world.done(removed).unwrap();
    world.until("the end of its address", |client| {
        (rows(client).values().filter(|row| row.type_id == 14).count() == 1).then_some(())
    });
    drop(subscription);
    world.until("the end of all", |client| (rows(client).len() == 1).then_some(()));
}

#[test]
fn a_freed_counter_rests_before_its_id_is_given_again() {
    let mut world = World::new(|context| context.counters_free_to_reuse_timeout_ns = 3_000_000_000);
    let add = |world: &mut World| {
        let id = world.client.add_counter(1_001, b"", "one").unwrap();
        world.until("the counter", |client| client.counter(id).unwrap())
    };
    let first = add(&mut world);
    let freed = first.counter_id();
    drop(first);
    world.until("the end of it", |client| (!client.counters().is_allocated(freed)).then_some(()));
    assert_eq!(world.client.counters().state(freed), -1, "reclaimed");
    let second = add(&mut world);
    assert_ne!(second.counter_id(), freed);
    world.pass(4);
    let third = add(&mut world);
    assert_eq!(third.counter_id(), freed);
    assert_eq!(third.get(), 0);
    assert_eq!(world.client.counters().registration_id(freed), third.registration_id());
}
