//! Small version of the main scenario: orders through a node that is killed meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::stopwatch::Stopwatch;
use harrier::ringbuf::Rng;

fn demo(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harrier"))
        .arg("demo")
        .args(["--json", "--svg"])
        .arg(directory.join("demo.svg"))
        .args(arguments)
        .output()
        .expect("the binary starts")
}

fn report(output: &Output) -> serde_json::Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

/// Order events from the folder in HARRIER_DATA, or generated ones with the same columns. The flag is true for the
/// former.
fn order_file(directory: &Path) -> (PathBuf, bool) {
    if let Some(folder) = std::env::var_os("HARRIER_DATA") {
        let files = std::fs::read_dir(&folder).expect("HARRIER_DATA names a folder");
        let mut csv = files
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "csv"));
        return (csv.next().expect("HARRIER_DATA holds a csv file"), true);
    }
    let path = directory.join("orders.csv");
    let (mut rng, mut text, mut live) = (Rng::new(3), String::new(), Vec::new());
    for row in 0..1_000u64 {
        let (kind, id, size, price, side) = match rng.below(10) {
            0..=5 => {
                let side = if rng.below(2) == 0 { 1 } else { -1 };
                let reading =
                    (row + 1, 10 + rng.below(90), 5_850_000 - side * 100 * (1 + rng.below(5) as i64), side);
                live.push(reading);
                (1, reading.0, reading.1, reading.2, reading.3)
            }
            6 | 7 if !live.is_empty() => {
                let (id, size, price, side) = live.swap_remove(rng.below(live.len() as u64) as usize);
                (3, id, size, price, side)
            }
            8 if !live.is_empty() => {
                let (id, _, price, side) = live[rng.below(live.len() as u64) as usize];
                (4, id, 1, price, side)
            }
            _ => (5, 0, 1, 5_850_000, 1),
        };
        text.push_str(&format!("34200.{row:06},{kind},{id},{size},{price},{side}\n"));
    }
    std::fs::write(&path, text).unwrap();
    (path, false)
}

#[test]
fn orders_survive_the_death_of_their_node() {
    let directory = tempfile::tempdir().unwrap();
    let watch = Stopwatch::start();
    let output = demo(&["--messages", "20000"], directory.path());
    let still_ms = watch.still_ns() as f64 / 1e6;
    let report = report(&output);
    assert_eq!(report["digest"], report["expected_digest"]);
    assert_eq!(report["messages"], 20_000);
    assert!(report["outage_ms"].as_f64().unwrap() < 5_000.0 + still_ms, "{report}");
    assert!(report["round_trip"]["count"].as_u64().unwrap() >= 10_000);
    let plot = std::fs::read_to_string(directory.path().join("demo.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("percentile"));
}

#[test]
fn order_files_are_read_plain_and_packed() {
    let directory = tempfile::tempdir().unwrap();
    let (plain, is_real) = order_file(directory.path());
    let packed = directory.path().join("orders.csv.gz");
    let file = std::fs::File::create(&packed).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    encoder.write_all(&std::fs::read(&plain).unwrap()).unwrap();
    encoder.finish().unwrap();
    let digests: Vec<_> = [&plain, &packed]
        .map(|path| {
            let output = demo(
                &["--messages", "5000", "--no-crash", "--input", path.to_str().unwrap()],
                directory.path(),
            );
            let report = report(&output);
            assert_eq!(report["digest"], report["expected_digest"]);
            assert!(report["messages"].as_u64().unwrap() >= 5_000);
            assert!(report["executions"].as_u64().unwrap() > 0);
            if is_real {
                let (all, exact) = (&report["first_pass_executions"], &report["first_pass_executions_exact"]);
                assert!(exact.as_f64().unwrap() > 0.9 * all.as_f64().unwrap(), "{report}");
            }
            report["digest"].clone()
        })
        .into();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_bad_order_file_is_an_error_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.csv");
    std::fs::write(&path, "1,1,1,1,1,1\nnonsense\n").unwrap();
    let output = demo(&["--input", path.to_str().unwrap()], directory.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 2"));
    let output = demo(&["--messages", "3"], directory.path());
    assert_eq!(output.status.code(), Some(2));
}
