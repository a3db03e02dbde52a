//! Channels whose hosts are names of other drivers (spec 02 §5.12).

use crate::world::{World, free_address};
use harrier_client::ClientError;
use harrier_driver::context::{DriverContext, NameResolverSupplier};
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::PausingClock;
use harrier_ringbuf::Clock;

const STREAM: i32 = 10;
const INVALID_PACKETS: i32 = 14;
const RESOLUTION_CHANGES: i32 = 25;
const RESOLVER_MAX_TIME: i32 = 32;
const NAME_TABLE_ENTRY: i32 = 2_001;
const RESOLVER_NEIGHBORS: i32 = 15;
const RESOLVER_CACHE_ENTRIES: i32 = 16;
const BOOTSTRAP_NEIGHBOR: i32 = 21;

fn named(name: &'static str, interface: String, neighbors: String) -> impl FnOnce(&mut DriverContext) {
    move |context| {
        context.resolver_name = name.into();
        context.resolver_interface = interface;
        context.resolver_bootstrap_neighbor = neighbors;
    }
}

/// Returns the values of the counters of a type.
fn values(world: &World, type_id: i32) -> Vec<i64> {
    let (mut found, counters) = (Vec::new(), world.client.counters());
    counters.for_each(&mut |id, counter_type, _, _| {
        if counter_type == type_id {
            found.push(counters.value(id));
        }
    });
    found
}

#[test]
fn a_stream_goes_to_a_driver_by_its_name() {
    let [one, two] = [free_address(), free_address()];
    let mut first = World::new(named("one", one.to_string(), format!("localhost:{}", two.port())));
    let mut second = World::new(named("two", two.to_string(), String::new()));
    let port = free_address().port();
    let channel = format!("aeron:udp?endpoint=two:{port}");
    // A name that no driver has announced does not resolve.
    match first.exclusive("aeron:udp?endpoint=three:9", STREAM) {
        Err(ClientError::Registration { code, message, .. }) => {
            assert!(code == 9 && message.contains("Unable to resolve host=(three"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let mut seconds = 0;
    while values(&first, RESOLVER_CACHE_ENTRIES) != [1] || values(&second, RESOLVER_NEIGHBORS) != [1] {
        first.pass(1);
        second.pass(1);
        seconds += 1;
        assert!(seconds < 60, "neither has heard of the other");
    }
    // A driver resolves its own name to its own address.
    let mut subscription = second.subscription(&channel, STREAM).unwrap();
    let mut publication = first.exclusive(&channel, STREAM).unwrap();
    second.until("the image", |_| {
        first.step();
        (subscription.images().len() == 1).then_some(())
    });
    second.until("the message", |_| {
        first.step();
        let _full = publication.offer(&[7; 100]);
        (subscription.poll(1, &mut |payload, _| assert_eq!(payload, [7; 100])) == 1).then_some(())
    });
    assert!(first.client.counters().value(RESOLVER_MAX_TIME) > 0);
    // An invalid datagram is counted.
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[1, 2, 3], one).unwrap();
    first.until("the count", |client| (client.counters().value(INVALID_PACKETS) == 1).then_some(()));
    // A driver that has gone is forgotten.
    drop((publication, subscription, second));
    for _ in 0..12 {
        first.pass(1);
    }
    assert_eq!(
        (values(&first, RESOLVER_NEIGHBORS), values(&first, RESOLVER_CACHE_ENTRIES)),
        (vec![0], vec![0])
    );
}

#[test]
fn a_table_of_names_serves_channels() {
    let port = free_address().port();
    let mut world = World::new(|context| {
        context.name_resolver_supplier = NameResolverSupplier::Table;
        context.name_resolver_arguments = format!("host,127.0.0.1,127.0.0.2|whole:1,127.0.0.1:{port},x:1");
    });
    let mut subscription =
        world.subscription(&format!("aeron:udp?endpoint=127.0.0.1:{port}"), STREAM).unwrap();
    for endpoint in [format!("host:{port}"), "whole:1".to_owned()] {
        let mut publication = world.exclusive(&format!("aeron:udp?endpoint={endpoint}"), STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 10, 100);
    }
}

#[test]
fn a_row_of_the_table_moves_a_stream_or_forbids_it() {
    let [before, after] = [free_address(), free_address()];
    let mut world = World::new(|context| {
        context.name_resolver_supplier = NameResolverSupplier::Table;
        context.name_resolver_arguments = format!("somewhere,{before},{after}");
    });
    let choice = world.client.counters().find(&mut |_, type_id, _| type_id == NAME_TABLE_ENTRY).unwrap();
    let choose = |world: &World, value: i64| {
        world.client.counters().counter(choice).unwrap().set_ordered(value);
    };
    let mut first = world.subscription(&format!("aeron:udp?endpoint={before}"), STREAM).unwrap();
    let mut second = world.subscription(&format!("aeron:udp?endpoint={after}"), STREAM).unwrap();
    // The name has no port: the table knows it.
    let mut publication = world.exclusive("aeron:udp?endpoint=somewhere", STREAM).unwrap();
    world.exchange(&mut publication, &mut first, 10, 100);
    choose(&world, 1);
    drop(first);
    world.pass(12);
    world.exchange(&mut publication, &mut second, 10, 100);
    assert_eq!(world.client.counters().value(RESOLUTION_CHANGES), 1);
    choose(&world, -1);
    for (channel, text) in [
        ("aeron:udp?endpoint=somewhere", "Unable to resolve host=(somewhere): (forced)"),
        ("aeron:udp?endpoint=elsewhere", "port invalid"),
    ] {
        match world.exclusive(channel, STREAM) {
            Err(ClientError::Registration { message, .. }) => assert!(message.contains(text), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_driver_without_a_name_does_not_start() {
    let directory = tempfile::Builder::new().prefix("harrier-resolver-").tempdir_in("/dev/shm").unwrap();
    for (name, interface, text) in [
        ("", "127.0.0.1:0", "resolver name is required"),
        ("one", "127.0.0.1", "must be host:port"),
        ("one", "nohost.invalid:1", "nohost.invalid"),
    ] {
        let mut context = crate::world::context(directory.path());
        named(name, interface.to_owned(), String::new())(&mut context);
        let now = PausingClock.now();
        let built = HostDriver::on_host(context, ExecutorMode::Inline, &now);
        let error = built.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(text), "{error}");
    }
}

/// A counter of the resolver: its type, owner, first four bytes of its key, label and value.
type Row = (i32, i64, i32, String, i64);

fn resolver_rows(world: &World) -> Vec<Row> {
    let (mut found, counters) = (Vec::new(), world.client.counters());
    counters.for_each(&mut |id, type_id, key, label| {
        if [RESOLVER_NEIGHBORS, RESOLVER_CACHE_ENTRIES, BOOTSTRAP_NEIGHBOR].contains(&type_id) {
            let key = i32::from_le_bytes(key[..4].try_into().unwrap());
            found.push((type_id, counters.owner_id(id), key, label.to_owned(), counters.value(id)));
        }
    });
    found
}

/// Lets ten and a half seconds pass for all worlds.
fn pass_timeout(worlds: &mut [&mut World]) {
    for _ in 0..210 {
        worlds.iter_mut().for_each(|world| world.pass_ms(50));
    }
}

#[test]
fn neighbours_and_names_have_counters_that_follow_them() {
    let [one, two, three] = [free_address(), free_address(), free_address()];
    let neighbors = format!("localhost:{},{three},nohost.invalid:9", two.port());
    let mut first = World::new(named("one", one.to_string(), neighbors));
    let rows = |counts: [i64; 2], bootstraps: [i64; 3]| -> Vec<Row> {
        vec![
            (RESOLVER_NEIGHBORS, -1, 0, format!("Resolver neighbors: bound {one}"), counts[0]),
            (RESOLVER_CACHE_ENTRIES, -1, 0, "Resolver cache entries: name=one".into(), counts[1]),
            (
                BOOTSTRAP_NEIGHBOR,
                -1,
                0,
                format!("Bootstrap neighbor: name=localhost:{} resolved={two}", two.port()),
                bootstraps[0],
            ),
            (
                BOOTSTRAP_NEIGHBOR,
                -1,
                1,
                format!("Bootstrap neighbor: name={three} resolved={three}"),
                bootstraps[1],
            ),
            (
                BOOTSTRAP_NEIGHBOR,
                -1,
                2,
                "Bootstrap neighbor: name=nohost.invalid:9 resolved=".into(),
                bootstraps[2],
            ),
        ]
    };
    assert_eq!(resolver_rows(&first), rows([0, 0], [0, 0, 0]));
    first.pass(3);
    assert_eq!(resolver_rows(&first), rows([0, 0], [0, 0, 0]), "nobody is there");
    let mut second = World::new(named("two", two.to_string(), String::new()));
    pass_timeout(&mut [&mut first, &mut second]);
    assert_eq!(resolver_rows(&first), rows([1, 1], [1, 0, 0]));
    assert_eq!(resolver_rows(&second).len(), 2, "it was told of nobody to begin with");
    // The first driver learns a name that was announced only to the second one.
    let fourth = free_address();
    let mut last = World::new(named("four", fourth.to_string(), two.to_string()));
    pass_timeout(&mut [&mut first, &mut second, &mut last]);
    assert_eq!(resolver_rows(&first), rows([2, 2], [1, 0, 0]));
    assert_eq!(
        (values(&last, RESOLVER_NEIGHBORS), values(&last, RESOLVER_CACHE_ENTRIES)),
        (vec![2], vec![2])
    );
    // A silent driver stops being a neighbour, and becomes one again when it returns.
    drop(second);
    pass_timeout(&mut [&mut first, &mut last]);
    assert_eq!(resolver_rows(&first), rows([1, 1], [0, 0, 0]));
    let mut second = World::new(named("two", two.to_string(), String::new()));
    pass_timeout(&mut [&mut first, &mut last, &mut second]);
    assert_eq!(resolver_rows(&first), rows([2, 2], [1, 0, 0]));
    // The counter of a bootstrap neighbour goes by its address, also for a driver with another name.
    let mut third = World::new(named("three", three.to_string(), String::new()));
    pass_timeout(&mut [&mut first, &mut second, &mut third, &mut last]);
    assert_eq!(resolver_rows(&first), rows([3, 3], [1, 1, 0]));
    drop((second, third, last));
    pass_timeout(&mut [&mut first]);
    assert_eq!(resolver_rows(&first), rows([0, 0], [0, 0, 0]));
}
