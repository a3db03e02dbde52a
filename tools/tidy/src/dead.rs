//! Files that nothing uses: sources outside every module tree, and golden data that no source names.

use std::path::Path;

use crate::Finding;
use crate::modules;
use crate::tree::{Tree, is_test_data};

/// Finds dead source files and dead golden data.
pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let reached = modules::reached(tree);
    for (path, _) in tree.texts_with("rs").filter(|(path, _)| !reached.contains(*path)) {
        findings.push(Finding::new(path, 0, "dead source file: no module tree reaches it".to_owned()));
    }
    let sources: Vec<&str> =
        tree.texts().filter(|(path, _)| !is_document(path)).map(|(_, text)| text).collect();
    for path in tree.paths().filter(|path| is_data(path)) {
        if !is_named(path, &sources) {
            findings.push(Finding::new(
                path,
                0,
                "dead data: no source file names it or its folder".to_owned(),
            ));
        }
    }
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// True for golden data and for other files beside tests that are no source.
fn is_data(path: &Path) -> bool {
    let sources = ["rs", "java", "go", "xml", "toml", "lock", "mod", "sum"];
    let is_source =
        path.extension().is_some_and(|extension| sources.iter().any(|source| extension == *source));
    let is_beside_tests = path.components().any(|part| part.as_os_str() == "tests");
    is_test_data(path) || is_beside_tests && !is_source && !is_document(path)
}

/// True when a source has the file's name or its stem in quotes or in a longer path, or a folder that the file is in: with its
/// path from `testdata` on, or in quotes with its path below `tests`.
fn is_named(path: &Path, sources: &[&str]) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let folders = path.ancestors().skip(1).filter_map(|folder| {
        let parts: Vec<_> = folder.components().filter_map(|part| part.as_os_str().to_str()).collect();
        let root = parts.iter().position(|part| matches!(*part, "testdata" | "tests"))?;
        let below = parts[root + 1..].join("/");
        (!below.is_empty()).then(|| {
            if parts[root] == "tests" { format!("\"{below}\"") } else { format!("testdata/{below}") }
        })
    });
    let quoted = [format!("\"{name}"), format!("/{name}"), format!("\"{stem}\""), format!("/{stem}\"")];
    let wanted: Vec<String> = quoted.into_iter().chain(folders).collect();
    sources.iter().any(|text| wanted.iter().any(|wanted| text.contains(wanted.as_str())))
}
