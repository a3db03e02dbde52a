//! Replication between the released archive and ours, in both directions: the same signals, the same bytes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::peers::archive::{OurArchive, number};
use crate::peers::java;
use crate::peers::peer::Peer;
use crate::support::directory;
use crate::support::ports::free_port;

/// A message of 200 bytes takes a frame of 256.
const LENGTH: usize = 200;
const FRAME: i64 = 256;
const SEGMENT: i64 = 128 << 10;

/// The released driver and archive with a client that is also connected to our archive.
struct Pair {
    java: Peer,
    java_control: String,
    ours: OurArchive,
    home: tempfile::TempDir,
}

impl Pair {
    /// Starts both archives, ours on its own driver or on the released one.
    fn start(is_on_javas_driver: bool) -> Self {
        let home = directory("replication");
        let java_control = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
        let aeron = home.path().join("java");
        let mut java = java::with_archive(
            &aeron,
            &[
                &format!("aeron.archive.control.channel={java_control}"),
                "aeron.archive.replication.channel=aeron:udp?endpoint=127.0.0.1:0",
                "aeron.archive.segment.file.length=131072",
                "aeron.archive.id=7",
                "aeron.archive.connect.timeout=60s",
                "aeron.archive.message.timeout=60s",
                "aeron.publication.connection.timeout=60s",
                "aeron.client.liveness.timeout=120s",
                "aeron.publication.unblock.timeout=130s",
                "aeron.publication.linger.timeout=200ms",
                "aeron.timer.interval=20ms",
            ],
        );
        let folder = home.path().join("ours");
        let ours = match is_on_javas_driver {
            true => OurArchive::start_on(&folder, &aeron),
            false => OurArchive::start(&folder, None),
        };
        let connect = |java: &mut Peer, name: &str, control: &str| {
            java.call(&format!(
                "archive-connect archive={name} request={control} request-stream=10 \
                 response=aeron:udp?endpoint=127.0.0.1:0 response-stream=20"
            ));
        };
        connect(&mut java, "java", &java_control);
        connect(&mut java, "ours", &format!("aeron:udp?endpoint={}", ours.control_endpoint));
        Self { java, java_control, ours, home }
    }

    fn control(&self, archive: &str) -> String {
        match archive {
            "java" => self.java_control.clone(),
            _ => format!("aeron:udp?endpoint={}", self.ours.control_endpoint),
        }
    }

    fn segment(&self, archive: &str, recording: i64, base: i64) -> PathBuf {
        let folder = match archive {
            "java" => self.home.path().join("java-archive"),
            _ => self.ours.directory.join("archive"),
        };
        folder.join(format!("{recording}-{base}.rec"))
    }

    /// Records on the archive with that name; the publication `p` stays open.
    fn record(&mut self, archive: &str, channel: &str, source: &str, count: i64) -> (i64, i64) {
        let java = &mut self.java;
        java.call(&format!(
            "archive-start archive={archive} channel={channel} stream=1001 source={source} auto-stop=true"
        ));
        java.call(&format!("publish name=p channel={channel}|term-length=64k stream=1001 exclusive=true"));
        let sent = java.call(&format!("send name=p length={LENGTH} from=0 count={count}"));
        let position = number(&sent, "position");
        let recording = number(&self.signals(archive, 1)[0], "recording");
        self.java.call(&format!("archive-await archive={archive} recording={recording} position={position}"));
        (recording, position)
    }

    fn close_recording(&mut self, archive: &str) {
        self.java.call("close name=p");
        assert_eq!(self.signals(archive, 1)[0]["signal"], "STOP");
    }

    fn signals(&mut self, archive: &str, count: usize) -> Vec<Value> {
        let reply = self.java.call(&format!("archive-signals archive={archive} count={count}"));
        reply["signals"].as_array().unwrap().clone()
    }

    fn replicate(&mut self, from: &str, to: &str, recording: i64, more: &str) -> i64 {
        let control = self.control(from);
        let reply = self.java.call(&format!(
            "archive-replicate archive={to} recording={recording} control={control} control-stream=10 {more}"
        ));
        number(&reply, "value")
    }

    /// The signals of a replication as (name, recording, position, has a subscription).
    fn news(&mut self, archive: &str, id: i64, count: usize) -> Vec<(String, i64, i64, bool)> {
        let signals = self.signals(archive, count);
        let of_signal = |signal: &Value| {
            assert_eq!(number(signal, "correlation"), id, "{signals:?}");
            let name = signal["signal"].as_str().unwrap().to_owned();
            let has_subscription = number(signal, "subscription") != -1;
            (name, number(signal, "recording"), number(signal, "position"), has_subscription)
        };
        signals.iter().map(of_signal).collect()
    }

    fn error(&mut self, archive: &str) -> String {
        let reply = self.java.call(&format!("archive-error archive={archive}"));
        reply["error-text"].as_str().unwrap().to_owned()
    }

    fn same_files(&self, from: (&str, i64), to: (&str, i64), range: std::ops::Range<i64>) {
        let mut base = range.start / SEGMENT * SEGMENT;
        while base < range.end {
            let read = |(archive, recording)| std::fs::read(self.segment(archive, recording, base)).unwrap();
            let within =
                (range.start.max(base) - base) as usize..(range.end.min(base + SEGMENT) - base) as usize;
            assert!(read(from)[within.clone()] == read(to)[within], "segment {base}");
            base += SEGMENT;
        }
    }

    fn end(mut self) -> PathBuf {
        for archive in ["java", "ours"] {
            self.java.call(&format!("archive-close archive={archive}"));
        }
        let folder = self.ours.directory.join("archive");
        self.ours.stop();
        drop(self.java);
        verify(&folder);
        folder
    }
}

/// The released tool verifies the replicated recordings.
fn verify(folder: &Path) {
    let arguments = [folder.to_str().unwrap(), "verify", "-a"];
    let (_, output, errors) = crate::support::process::Process::finish(
        "ArchiveTool",
        &mut java::program(&[], "io.aeron.archive.ArchiveTool", &arguments),
    );
    assert!(!output.contains("ERR"), "{output}{errors}");
}

fn named(name: &str, recording: i64, position: i64, has_subscription: bool) -> (String, i64, i64, bool) {
    (name.to_owned(), recording, position, has_subscription)
}

/// Copies a stopped recording, again with nothing to add, and then a live one up to a stop position.
fn copies(pair: &mut Pair, from: &str, to: &str) {
    // The client uses the released driver, which our archive does not.
    let (channel, location) = match from {
        "java" => ("aeron:ipc?alias=r".to_owned(), "LOCAL"),
        _ => (format!("aeron:udp?endpoint=127.0.0.1:{}", free_port()), "REMOTE"),
    };
    let (source, stop) = pair.record(from, &channel, location, 1_500);
    pair.close_recording(from);
    let id = pair.replicate(from, to, source, "");
    let news = pair.news(to, id, 5);
    let target = news[0].1;
    let expected = [
        named("REPLICATE", target, 0, false),
        named("EXTEND", target, 0, true),
        named("SYNC", target, stop, true),
        named("REPLICATE_END", target, -1, false),
        named("STOP", target, stop, true),
    ];
    assert_eq!(news, expected, "{from} to {to}");
    pair.same_files((from, source), (to, target), 0..stop);

    let id = pair.replicate(from, to, source, &format!("to={target}"));
    let expected = [named("SYNC", target, stop, false), named("REPLICATE_END", target, -1, false)];
    assert_eq!(pair.news(to, id, 2), expected, "{from} to {to}");

    let (source, position) = pair.record(from, &channel, location, 400);
    let stop = position - 100 * FRAME;
    let id = pair.replicate(from, to, source, &format!("stop={stop}"));
    let target = target + 1;
    let expected = [
        named("REPLICATE", target, 0, false),
        named("EXTEND", target, 0, true),
        named("REPLICATE_END", target, -1, false),
        named("STOP", target, stop, true),
    ];
    assert_eq!(pair.news(to, id, 4), expected, "{from} to {to}");
    // A live recording is copied until the replication is stopped.
    let id = pair.replicate(from, to, source, &format!("to={target}"));
    assert_eq!(pair.news(to, id, 1), [named("EXTEND", target, stop, true)]);
    pair.java.call(&format!("archive-await archive={to} recording={target} position={position}"));
    assert_eq!(
        pair.java.call(&format!("archive-stop-replication archive={to} replication={id}"))["value"],
        1
    );
    let news = pair.news(to, id, 2);
    assert_eq!(news, [named("REPLICATE_END", target, -1, false), named("STOP", target, position, true)]);
    assert_eq!(
        pair.java.call(&format!("archive-stop-replication archive={to} replication={id}"))["value"],
        0
    );
    pair.same_files((from, source), (to, target), 0..position);
    pair.close_recording(from);
}

/// Copies over a response channel, with a separate session.
fn copy_over_response_channel(pair: &mut Pair, from: &str, to: &str) {
    let control = format!("127.0.0.1:{}", free_port());
    // The released archive keeps the session of its client's request stream for the stream that asks for the replay,
    // which then clashes, unless the client itself is answered over a response channel.
    let response = match to {
        "java" => format!("response=aeron:udp?control-mode=response|control=127.0.0.1:{}", free_port()),
        _ => String::new(),
    };
    let channel = format!("channel=aeron:udp?control-mode=response|control={control} {response}");
    let id = pair.replicate(from, to, 0, &channel);
    let news = pair.news(to, id, 5);
    let (target, stop) = (news[0].1, news[2].2);
    let expected = [
        named("REPLICATE", target, 0, false),
        named("EXTEND", target, 0, true),
        named("SYNC", target, stop, true),
        named("REPLICATE_END", target, -1, false),
        named("STOP", target, stop, true),
    ];
    assert_eq!(news, expected, "{from} to {to}");
    assert_eq!(stop, 1_500 * FRAME);
}

/// Replications that fail; returns the error texts of the target.
fn failures(pair: &mut Pair, from: &str, to: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let id = pair.replicate(from, to, 99, "");
    errors.push(pair.error(to));
    assert_eq!(pair.news(to, id, 1), [named("REPLICATE_END", -1, -1, false)], "{from} to {to}");
    let id = pair.replicate(from, to, 0, "io-length=32");
    errors.push(pair.error(to));
    assert_eq!(pair.news(to, id, 1), [named("REPLICATE_END", -1, -1, false)], "{from} to {to}");
    let control = pair.control(from);
    for refused in ["to=99", "live=aeron:udp?endpoint=127.0.0.1:9 channel=aeron:udp?control-mode=response"] {
        let reply = pair.java.refused(&format!(
            "archive-replicate archive={to} recording=0 control={control} control-stream=10 {refused}"
        ));
        errors.push(number(&reply, "code").to_string());
    }
    errors
}

#[test]
fn the_released_archive_and_ours_copy_each_others_recordings() {
    if !java::is_available() {
        return;
    }
    let mut pair = Pair::start(false);
    copies(&mut pair, "java", "ours");
    copies(&mut pair, "ours", "java");
    copy_over_response_channel(&mut pair, "java", "ours");
    copy_over_response_channel(&mut pair, "ours", "java");
    let theirs = failures(&mut pair, "ours", "java");
    let ours = failures(&mut pair, "java", "ours");
    assert_eq!(theirs[1..], ours[1..], "{theirs:?} {ours:?}");
    pair.end();
}

/// Both archives on the released driver, which knows multi-destination subscriptions.
#[test]
fn a_copy_of_ours_goes_over_to_the_live_stream() {
    if !java::is_available() {
        return;
    }
    let mut pair = Pair::start(true);
    for (round, to) in ["java", "ours"].into_iter().enumerate() {
        let control = format!("127.0.0.1:{}", free_port());
        let live = format!("aeron:udp?control-mode=dynamic|control={control}|ssc=true");
        let from = if to == "java" { "ours" } else { "java" };
        let (source, position) = pair.record(from, &live, "LOCAL", 900);
        let id = pair.replicate(
            from,
            to,
            source,
            &format!("live=aeron:udp?endpoint=127.0.0.1:0|control={control} channel-tag={}", 50 + round),
        );
        let news = pair.news(to, id, 4);
        let (target, merged) = (news[0].1, news[2].2);
        let expected = [
            named("REPLICATE", target, 0, false),
            named("EXTEND", target, 0, true),
            named("MERGE", target, merged, false),
            named("REPLICATE_END", target, -1, false),
        ];
        assert_eq!(news, expected, "to {to}");
        assert!(merged >= position);
        let sent = pair.java.call(&format!("send name=p length={LENGTH} from=900 count=900"));
        let end = number(&sent, "position");
        // After the merge both archives record the publisher's stream independently.
        pair.java.call(&format!("archive-await archive={to} recording={target} position={end}"));
        pair.java.call(&format!("archive-await archive={from} recording={source} position={end}"));
        pair.same_files((from, source), (to, target), 0..end);
        let listed = pair.java.call(&format!(
            "archive-list-subscriptions archive={to} fragment=tags={},{id} stream=1001",
            50 + round
        ));
        let channel = listed["subscriptions"][0]["channel"].as_str().unwrap();
        assert!(channel.contains("control-mode=manual") && channel.contains("rejoin=false"), "{listed}");
        pair.close_recording(from);
        assert_eq!(pair.news(to, id, 1), [named("STOP", target, end, true)]);

        // Tagged, up to a position of an active source.
        let (source, position) = pair.record(from, "aeron:ipc?alias=r", "LOCAL", 300);
        let stop = position - 100 * FRAME;
        let id =
            pair.replicate(from, to, source, &format!("subscription-tag=9{round} stop={stop} session=77"));
        let news = pair.news(to, id, 4);
        let target = target + 1;
        let expected = [
            named("REPLICATE", target, 0, false),
            named("EXTEND", target, 0, true),
            named("REPLICATE_END", target, -1, false),
            named("STOP", target, stop, true),
        ];
        assert_eq!(news, expected, "to {to}");
        let listed = pair.java.call(&format!("archive-list archive={to} recording={target}"));
        assert_eq!(number(&listed["recordings"][0], "session"), 77);
        pair.close_recording(from);
    }
    pair.end();
}
