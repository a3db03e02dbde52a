//! The checks on this repository, and on a tree that has one of each fault.

use std::path::Path;

use harrier_tidy::{Tree, check};

fn here(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_repository_is_sound() {
    let report = check(&here("../..")).unwrap();
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(report.citations > 1_000, "citations are not found any more: {}", report.citations);
    assert!(report.uncited.len() >= 7, "specifications are not found any more: {:?}", report.uncited.keys());
}

#[test]
fn each_fault_is_found() {
    let report = check(&here("testdata/broken")).unwrap();
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    let expected = std::fs::read_to_string(here("testdata/broken-findings.txt")).unwrap();
    assert_eq!(findings, expected.lines().collect::<Vec<_>>());
    assert_eq!(report.citations, 6);
}

#[test]
fn sections_that_only_documents_cite_are_reported() {
    let report = check(&here("testdata/broken")).unwrap();
    let uncited: Vec<_> = report.uncited.into_iter().collect();
    assert_eq!(uncited, [(2, vec!["4".to_owned()]), (5, vec!["L3".to_owned()])]);
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = Tree::read(&here("testdata/none")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("testdata/none: "), "{error}");
}
