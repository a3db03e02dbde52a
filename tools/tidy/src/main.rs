//! `harrier-tidy [--uncited] [ROOT]`: checks the repository below ROOT, by default the current folder.

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "Usage: harrier-tidy [--uncited] [ROOT]
Checks citations of docs/spec, links, dead files and lengths. With --uncited it also lists the sections that no code cites.";

fn main() -> ExitCode {
    let (mut is_long, mut root) = (false, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--uncited" => is_long = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            path if !path.starts_with('-') && root.is_none() => root = Some(PathBuf::from(path)),
            other => {
                eprintln!("unknown argument {other}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match harrier_tidy::check(&root.unwrap_or_else(|| PathBuf::from("."))) {
        Ok(report) => print(&report, is_long),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &harrier_tidy::Report, is_long: bool) -> ExitCode {
    for finding in &report.findings {
        println!("{finding}");
    }
    let uncited: usize = report.uncited.values().map(Vec::len).sum();
    println!(
        "{} citations, {} findings, {uncited} sections that no code cites",
        report.citations,
        report.findings.len()
    );
    for (document, numbers) in report.uncited.iter().filter(|(_, numbers)| is_long && !numbers.is_empty()) {
        println!("spec {document:02}: {}", numbers.join(", "));
    }
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
