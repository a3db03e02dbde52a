//! Citations of the specifications: `spec 02 §3.4`, `spec 03 §4.2–4.4, §5`, `spec 05 L7`, `07 §12`, `spec 05, "Interfaces"`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::Finding;
use crate::specs::{self, Rule, Specs};
use crate::tree::Tree;

/// Longest text between a citation and a `§` that still means the same document.
const MAX_GAP: usize = 60;

/// The citations of a repository.
#[derive(Debug, Default)]
pub struct Cited {
    /// Rules that source files and tests cite.
    pub cited_by_code: BTreeSet<Rule>,
    /// Citations that resolve.
    pub count: usize,
}

/// Resolves each citation in the tree. Those that do not resolve become findings.
pub fn check(tree: &Tree, specs: &Specs, findings: &mut Vec<Finding>) -> Cited {
    let mut cited = Cited::default();
    for (path, text) in tree.texts() {
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        let flow = Flow::new(text, path);
        for citation in flow.citations(home(path)) {
            match citation.resolve(specs) {
                Ok(rules) => {
                    cited.count += 1;
                    if is_code {
                        cited.cited_by_code.extend(rules);
                    }
                }
                Err(message) => findings.push(Finding::new(path, citation.line, message)),
            }
        }
    }
    cited
}

/// The document that a `§` without a document number means: in a specification itself, and in the amendments to 04.
fn home(path: &Path) -> Option<u8> {
    specs::document_number(path).map(|number| if number == 7 { 4 } else { number })
}

/// One citation.
#[derive(Debug, PartialEq, Eq)]
struct Citation {
    line: usize,
    target: Target,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// `spec 02` alone.
    Document(u8),
    Rule(Rule),
    /// `spec 03 §4.2–4.4`.
    Range(u8, String, String),
    /// `spec 05, "Interfaces"`.
    Title(u8, String),
    /// A `§` without a document.
    Unknown(String),
}

impl Citation {
    /// The rules that are cited, or what is wrong.
    fn resolve(&self, specs: &Specs) -> Result<Vec<Rule>, String> {
        let missing = |text: String| Err(format!("{text} is no heading of docs/spec"));
        match &self.target {
            Target::Document(document) if specs.has_document(*document) => Ok(Vec::new()),
            Target::Document(document) => Err(format!("spec {document:02} is no document of docs/spec")),
            Target::Rule(rule) if specs.has(rule) => Ok(vec![rule.clone()]),
            Target::Rule((document, number)) => missing(format!("spec {document:02} {}", sign(number))),
            Target::Range(document, first, last) => match specs.range(*document, first, last) {
                rules if rules.is_empty() => missing(format!("spec {document:02} {}–{last}", sign(first))),
                rules => Ok(rules),
            },
            Target::Title(document, title) if specs.has_title(*document, title) => Ok(Vec::new()),
            Target::Title(document, title) => missing(format!("spec {document:02}, \"{title}\"")),
            Target::Unknown(number) => Err(format!("§{number} names no document: write spec NN §{number}")),
        }
    }
}

fn sign(number: &str) -> String {
    if number.starts_with('L') { number.to_owned() } else { format!("§{number}") }
}

/// A text with the line breaks of its comments and paragraphs taken away.
struct Flow {
    text: String,
    /// Start of each line in `text`.
    starts: Vec<usize>,
}

impl Flow {
    fn new(source: &str, path: &Path) -> Self {
        let is_document = path.extension().is_some_and(|extension| extension == "md");
        let (mut text, mut starts) = (String::with_capacity(source.len()), Vec::new());
        for line in source.lines() {
            starts.push(text.len());
            let line = line.trim();
            text.push_str(if is_document { line } else { without_marker(line) });
            text.push(' ');
        }
        Self { text, starts }
    }

    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    fn citations(&self, home: Option<u8>) -> Vec<Citation> {
        let (mut found, mut at) = (Vec::new(), 0);
        let mut latest: Option<(u8, usize)> = None;
        while let Some(candidate) = self.next_candidate(at) {
            let mut cursor = Cursor { text: &self.text, at: candidate };
            let targets = match cursor.document() {
                Some((document, is_explicit)) => {
                    let targets = cursor.targets(document, is_explicit);
                    latest = (!targets.is_empty()).then_some((document, cursor.at)).or(latest);
                    targets
                }
                None => cursor.bare(
                    latest
                        .filter(|(_, end)| self.is_near(*end, candidate))
                        .map(|(number, _)| number)
                        .or(home),
                ),
            };
            found.extend(targets.into_iter().map(|target| Citation { line: self.line(candidate), target }));
            at = cursor.at;
        }
        found
    }

    /// True when a `§` at `at` belongs to the citation that ends at `end`: no sentence and no parenthesis ends between them.
    fn is_near(&self, end: usize, at: usize) -> bool {
        let between = self.text.get(end..at).unwrap_or_default();
        between.len() <= MAX_GAP && !between.contains(')') && !between.contains(". ")
    }

    /// The next place where a document number or a `§` stands.
    fn next_candidate(&self, from: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        (from..bytes.len())
            .find(|at| is_document_number(bytes, *at) || bytes[*at..].starts_with("§".as_bytes()))
    }
}

/// True where a number of two digits begins with 0 and stands by itself.
fn is_document_number(bytes: &[u8], at: usize) -> bool {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    let before = at.checked_sub(1).map_or(b' ', byte);
    let is_alone = matches!(before, b' ' | b'(' | b'`' | b'"' | b'/' | b'*' | b'[');
    byte(at) == b'0' && byte(at + 1).is_ascii_digit() && is_alone && !byte(at + 2).is_ascii_alphanumeric()
}

/// A line without the sign that makes it a comment.
fn without_marker(line: &str) -> &str {
    let markers = ["///", "//!", "//", "#"];
    let rest = markers.iter().find_map(|marker| line.strip_prefix(marker)).unwrap_or(line);
    rest.trim_start()
}

/// A place in a text, moved on by what is read there.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn accept(&mut self, prefix: &str) -> bool {
        let is_there = self.rest().starts_with(prefix);
        if is_there {
            self.at += prefix.len();
        }
        is_there
    }

    /// A document number, and whether the word "spec" stands before it. `None` at a `§`.
    fn document(&mut self) -> Option<(u8, bool)> {
        let number = self.rest().get(..2)?.parse().ok()?;
        let before = self.text[..self.at].trim_end().to_ascii_lowercase();
        self.at += 2;
        Some((number, before.ends_with("spec") || before.ends_with("specs")))
    }

    /// The list of rules behind a document number.
    fn targets(&mut self, document: u8, is_explicit: bool) -> Vec<Target> {
        let start = self.at;
        if is_explicit && self.accept(", \"") {
            let title = self.rest().split('"').next().unwrap_or_default();
            self.at += title.len();
            return vec![Target::Title(document, title.to_owned())];
        }
        let _ = self.accept(",");
        let mut targets = Vec::new();
        while self.separator(targets.is_empty()) {
            let Some(target) = self.rule(document) else { break };
            targets.push(target);
        }
        if targets.is_empty() {
            self.at = start;
            if is_explicit {
                targets.push(Target::Document(document));
            }
        }
        targets
    }

    /// Accepts the text between two rules of a list. It moves on only if a rule follows.
    fn separator(&mut self, is_first: bool) -> bool {
        let start = self.at;
        let separators: &[&str] = if is_first { &[" "] } else { &[", ", " and ", "; ", ",", " "] };
        let _ = separators.iter().any(|separator| self.accept(separator));
        let starts_rule = |text: &str| {
            text.starts_with('§')
                || text.strip_prefix('L').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let is_rule = self.at > start && starts_rule(self.rest());
        if !is_rule {
            self.at = start;
        }
        is_rule
    }

    /// A rule or a range of rules.
    fn rule(&mut self, document: u8) -> Option<Target> {
        let first = self.number()?;
        let start = self.at;
        if self.accept("–") || self.accept("-") {
            if let Some(last) = self.number() {
                return Some(Target::Range(document, first, last));
            }
            self.at = start;
        }
        Some(Target::Rule((document, first)))
    }

    fn number(&mut self) -> Option<String> {
        let start = self.at;
        let _ = self.accept("§");
        let number = specs::number(self.rest());
        if number.is_empty() {
            self.at = start;
            return None;
        }
        self.at += number.len();
        Some(number.to_owned())
    }

    /// A `§` without a document number.
    fn bare(&mut self, home: Option<u8>) -> Vec<Target> {
        let start = self.at;
        let Some(target) = self.rule(home.unwrap_or_default()) else {
            self.at = start + '§'.len_utf8();
            return Vec::new();
        };
        match (home, target) {
            (Some(_), target) => vec![target],
            (None, Target::Rule((_, number)) | Target::Range(_, number, _)) => vec![Target::Unknown(number)],
            (None, _) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
