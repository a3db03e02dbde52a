//! A client (and on request its media driver) of the released C library that does what lines on standard input say.
//! Every line starts with a number; its one line of answer on standard output carries it as `id`. Lines run side by
//! side, each on its own thread, so a sender and a receiver can be started together. The process ends when its input
//! does.

mod client;
mod command;
mod driver;
mod events;
mod inspection;
mod messages;
mod publication;
mod streams;
mod subscription;
mod wait;

use std::io::{BufRead, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use client::{Client, Failure};
use command::Command;
use streams::Streams;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("an Aeron directory");
    let driver = match arguments.next().as_deref() {
        None => None,
        Some("driver") => Some(driver::Driver::launch(&directory).expect("the driver")),
        Some(other) => panic!("unknown server: {other}"),
    };
    let client = Arc::new(Client::connect(&directory).expect("the client"));
    let streams = Arc::new(Streams::new(client.clone()));
    print(0, json!({ "clientId": client.id() }));
    read_lines(&client, &streams);
    client.close();
    drop(driver);
    std::process::exit(0);
}

fn read_lines(client: &Arc<Client>, streams: &Arc<Streams>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (id, rest) = line.split_once(' ').expect("a number and a command");
        let id: u64 = id.parse().expect("a number");
        let command = Command::parse(rest);
        if command.as_ref().is_ok_and(|command| command.verb == "exit") {
            print(id, json!({}));
            return;
        }
        let (client, streams) = (client.clone(), streams.clone());
        std::thread::spawn(move || print(id, answer(&client, &streams, command)));
    }
}

fn answer(client: &Client, streams: &Streams, command: Result<Command, Failure>) -> Value {
    match command.and_then(|command| run(client, streams, &command)) {
        Ok(reply) => reply,
        Err(failure) => failure.reply(),
    }
}

fn print(id: u64, mut reply: Value) {
    reply["id"] = id.into();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{reply}").and_then(|()| out.flush()).expect("standard output");
}

fn run(client: &Client, streams: &Streams, command: &Command) -> Result<Value, Failure> {
    match command.verb.as_str() {
        "publish" => streams.publish(command),
        "publish-async" => streams.publish_async(command),
        "await" => streams.finish(command),
        "cancel" => streams.cancel(command),
        "subscribe" => streams.subscribe(command),
        "resolve" => streams.subscription(command, |it| it.lock().unwrap().resolve()),
        "connected" => streams.connected(command),
        "images" => streams.images(command),
        "unavailable" => streams.unavailable(command),
        "send" => streams.send(command),
        "abort" => streams.abort(command),
        "receive" => streams.receive(command),
        "stamps" => streams.stamps(command),
        "tether" => streams.tether(command),
        "drain" => streams.drain(command),
        "hang" => streams.hang(command),
        "destination" => streams.destination(command),
        "receive-destination" => streams.receive_destination(command),
        "reject" => streams.reject(command),
        "revoke" => streams.revoke(command),
        "counters" => Ok(inspection::counters(client)),
        "counter" => inspection::add_counter(client, command),
        "static-counter" => inspection::add_static_counter(client, command),
        "next-session" => {
            client.next_session_id(command.integer("stream")?).map(|id| json!({ "session": id }))
        }
        "events" => Ok(json!({ "events": events::so_far() })),
        "state" => Ok(json!({ "closed": client.is_closed() })),
        "close" => streams.close(command),
        "halt" => std::process::abort(),
        other => Err(Failure::of(format!("unknown command: {other}"))),
    }
}
