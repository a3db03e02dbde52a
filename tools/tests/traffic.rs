//! `harrier ping`, `pong`, `pub`, `sub`, `rate`, `export` and `completions`, run as commands.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::binaries::{OurDriver, harrier};
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, directory};
use serde_json::Value;

fn command(words: &[&str]) -> Command {
    let mut command = harrier();
    command.args(words);
    command
}

fn finish(words: &[&str]) -> (i32, String, String) {
    let (status, output, errors) = Process::finish("harrier", &mut command(words));
    (status.code().unwrap(), output, errors)
}

fn udp(port: u16) -> String {
    format!("aeron:udp?endpoint=127.0.0.1:{port}")
}

#[test]
fn pings_come_back_from_another_process() {
    let (there, back) = (udp(free_port()), udp(free_port()));
    let streams = ["--channel", &there, "--reply-channel", &back, "--idle", "yield"];
    let mut pong = Process::start("harrier pong", &mut command(&[&["pong"][..], &streams].concat()));
    assert!(pong.line().contains("echoes"));
    let base = directory("ping");
    let svg = base.path().join("rtt.svg");
    let measure = ["ping", "--count", "500", "--warmup", "10", "--svg", svg.to_str().unwrap()];
    let patient = ["--timeout-ms", "60000"];
    let (code, output, errors) = finish(&[&measure[..], &streams, &patient, &["--json"]].concat());
    assert_eq!((code, errors.as_str()), (0, ""));
    let document: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(document["count"], 500);
    let (p50, max) = (document["p50_ns"].as_u64().unwrap(), document["max_ns"].as_u64().unwrap());
    assert!(p50 > 0 && p50 <= max, "{document}");
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));

    // Longer than a frame, at a configured rate.
    let paced = ["ping", "--count", "100", "--warmup", "0", "--length", "5000", "--rate", "2000"];
    let (code, output, errors) = finish(&[&paced[..], &streams, &patient].concat());
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(output.starts_with("100 round trips") && output.contains("p99.9"), "{output}");
    pong.signal("TERM");
    assert!(pong.wait().success());
}

#[test]
fn a_ping_without_a_pong_says_what_is_missing() {
    let (there, back) = (udp(free_port()), udp(free_port()));
    let (code, _, errors) =
        finish(&["ping", "--channel", &there, "--reply-channel", &back, "--timeout-ms", "100"]);
    assert_eq!(code, 1);
    assert!(errors.contains("no reply within 100 ms") && errors.contains("harrier pong"), "{errors}");
}

#[test]
fn what_is_published_is_shown() {
    let channel = udp(free_port());
    let stream = ["--channel", &channel, "--stream-id", "-7", "--idle", "yield"];
    let shown = [&["sub", "--count", "5", "--headers"][..], &stream].concat();
    let mut sub = Process::start("harrier sub", &mut command(&shown));
    let mut published = Process::start("harrier pub", &mut command(&[&["pub"][..], &stream].concat()));
    let long = "x".repeat(3_000);
    for line in ["first", "second", "", &long] {
        published.write(line);
    }
    let more = finish(&[&["pub", "--json"][..], &stream, &["tab\tand umlaut ü"]].concat());
    assert_eq!((more.0, more.2.as_str()), (0, ""));
    let object: Value = serde_json::from_str(&more.1).unwrap();
    assert_eq!((&object["messages"], &object["bytes"]), (&1.into(), &17.into()));
    let mut bodies: Vec<String> =
        (0..5).map(|_| sub.line().splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect();
    assert!(sub.wait().success());
    assert!(sub.errors().matches("session ").count() >= 2, "{}", sub.errors());
    bodies.sort();
    assert_eq!(bodies, ["", "first", "second", "tab\tand umlaut ü", &long]);
    published.signal("INT");
    assert!(published.wait().success());
}

#[test]
fn numbered_messages_and_what_is_no_text_are_hexadecimal() {
    let channel = udp(free_port());
    let stream = ["--channel", &channel, "--idle", "yield"];
    let mut sub = Process::start(
        "harrier sub",
        &mut command(&[&["sub", "--count", "3", "--json"][..], &stream].concat()),
    );
    let (code, output, errors) =
        finish(&[&["pub", "--generate", "3", "--length", "9", "--rate", "1000"][..], &stream].concat());
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(output.starts_with("3 messages, 27 B"), "{output}");
    for number in 0..3 {
        let object: Value = serde_json::from_str(&sub.line()).unwrap();
        assert_eq!(object["hex"], format!("0{number}0000000000000000"));
        assert_eq!((&object["length"], &object["stream_id"]), (&9.into(), &1001.into()));
        assert_eq!(object["position"], 64 * (number + 1));
    }
    assert!(sub.wait().success());
}

#[test]
fn rates_are_told_every_second_and_drawn() {
    let driver = OurDriver::start(&[]);
    let base = directory("rate");
    let svg = base.path().join("rate.svg");
    let (code, output, errors) = finish(&[
        "rate",
        "--aeron-dir",
        driver.directory.to_str().unwrap(),
        "--channel",
        "aeron:ipc",
        "--seconds",
        "1",
        "--idle",
        "yield",
        "--json",
        "--svg",
        svg.to_str().unwrap(),
    ]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = lines.last().unwrap();
    assert_eq!(total["total"], true);
    let rate = |name: &str| total[name].as_f64().unwrap();
    assert!(rate("published_msgs_per_s") > 0.0 && rate("received_msgs_per_s") > 0.0, "{total}");
    assert!((rate("received_bytes_per_s") / rate("received_msgs_per_s") - 32.0).abs() < 0.01, "{total}");
    assert!(std::fs::read_to_string(&svg).unwrap().contains("received"));
    driver.stop();
}

#[test]
fn counters_are_served() {
    let driver = OurDriver::start(&[]);
    let absent = directory("absent");
    let mut export = Process::start(
        "harrier export",
        &mut command(&[
            "export",
            "--aeron-dir",
            driver.directory.to_str().unwrap(),
            "--aeron-dir",
            absent.path().to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
        ]),
    );
    let ready: Value = serde_json::from_str(&export.line()).unwrap();
    let url = ready["url"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_nanos(PATIENCE_NS as u64))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let up = |path: &std::path::Path, value: u8| {
        format!("aeron_driver_up{{aeron_dir=\"{}\"}} {value}", path.display())
    };
    assert!(body.contains(&up(&driver.directory, 1)) && body.contains(&up(absent.path(), 0)), "{body}");
    assert!(body.contains("# TYPE aeron_naks_sent_total counter"));
    assert!(ask("DELETE / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    // A silent connection does not delay other clients.
    let _silent = TcpStream::connect(address).unwrap();
    assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    export.signal("TERM");
    assert!(export.wait().success());
    driver.stop();
}

#[test]
fn shells_get_their_scripts() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef harrier"), ("fish", "complete -c harrier")]
    {
        let (code, output, errors) = finish(&["completions", shell]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(output.contains(sign) && output.contains("lease"), "{shell}");
    }
    assert_eq!(finish(&["completions", "cmd"]).0, 2);
}
