#![allow(clippy::disallowed_methods)]
//! The simulator's command line.

fn main() {
    let seeds: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let from: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1);
    let level: u32 = std::env::args().nth(3).and_then(|s| s.parse().ok()).unwrap_or(0);
    let sync_level = harrier_archive::SyncLevel::from_level(level).unwrap();
    let mut summary = harrier_sim::report::Summary::default();
    let begin = std::time::Instant::now();
    for seed in from..from + seeds {
        let settings = harrier_sim::node::Settings { sync_level, keep_lines: false };
        summary.add(&harrier_sim::node::run(seed, settings));
    }
    summary.seconds = begin.elapsed().as_secs_f64();
    println!("{}", summary.table("node"));
}
