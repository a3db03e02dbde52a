//! Checks of this repository: each citation of a specification resolves, each link in a document leads somewhere, no file is dead,
//! and no source file is too long.
//!
//! ```no_run
//! let report = harrier_tidy::check(std::path::Path::new("."))?;
//! assert!(report.findings.is_empty());
//! # Ok::<(), harrier_tidy::TreeError>(())
//! ```

mod citations;
mod dead;
mod documents;
mod lexer;
mod modules;
mod specs;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use tree::{Tree, TreeError};

/// Most lines of a Rust source file.
pub const MAX_LINES: usize = 600;

/// A fault of the repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path of the file below the root of the repository.
    pub file: PathBuf,
    /// Line of the fault, from 1 on; 0 when the whole file is meant.
    pub line: usize,
    /// Description of the fault.
    pub message: String,
}

impl Finding {
    fn new(file: &Path, line: usize, message: String) -> Self {
        Self { file: file.to_owned(), line, message }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if self.line > 0 {
            write!(formatter, ":{}", self.line)?;
        }
        write!(formatter, ": {}", self.message)
    }
}

/// Result of [`check`].
#[derive(Debug)]
pub struct Report {
    /// Faults, by file and line. A sound repository has none.
    pub findings: Vec<Finding>,
    /// Headings of the specifications that no source file and no test cites, by document number. They are no faults.
    pub uncited: BTreeMap<u8, Vec<String>>,
    /// Citations that were resolved.
    pub citations: usize,
}

/// Checks the repository below `root`.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn check(root: &Path) -> Result<Report, TreeError> {
    let tree = Tree::read(root)?;
    let specs = specs::Specs::read(&tree);
    let mut findings = Vec::new();
    let citations = citations::check(&tree, &specs, &mut findings);
    documents::check(&tree, &mut findings);
    dead::check(&tree, &mut findings);
    check_lengths(&tree, &mut findings);
    findings.sort();
    let uncited = specs.uncited(&citations.cited_by_code);
    Ok(Report { findings, uncited, citations: citations.count })
}

fn check_lengths(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.texts_with("rs") {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(Finding::new(
                path,
                0,
                format!("{lines} lines, the limit is {MAX_LINES}: split the file"),
            ));
        }
    }
}
