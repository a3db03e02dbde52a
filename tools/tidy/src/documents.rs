//! Links of the documents, and the paths that documents and comments name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::Finding;
use crate::tree::{Tree, normalise};

/// The document that readers open first.
const START: &str = "README.md";

/// Checks each link, each path in a code span, each `….md` in a comment, and that every document can be reached.
pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let documents: BTreeMap<&Path, Document> =
        tree.texts_with("md").map(|(path, text)| (path, Document::parse(text))).collect();
    let mut links = BTreeMap::new();
    for (path, document) in &documents {
        links.insert(*path, document.check(path, tree, &documents, findings));
    }
    check_reached(&documents, &links, tree, findings);
    for (path, text) in tree.texts() {
        if !documents.contains_key(path) {
            check_mentions(path, text, tree, findings);
        }
    }
}

/// A link, an anchor, or a code span of a document.
#[derive(Debug)]
struct Place {
    text: String,
    line: usize,
}

/// The anchors, the links and the code spans of a document.
#[derive(Debug, Default)]
struct Document {
    anchors: BTreeSet<String>,
    links: Vec<Place>,
    code: Vec<Place>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => document.add_anchor(&heading.take().unwrap_or_default()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(place(text, &range, &dest_url));
                }
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    document.code.push(place(text, &range, &code));
                }
                Event::Text(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        document
    }

    /// Adds the anchor of a heading. The second of two equal ones ends in `-1`.
    fn add_anchor(&mut self, heading: &str) {
        let anchor = anchor(heading);
        let count = (1..).find(|count| !self.anchors.contains(&numbered(&anchor, count - 1))).unwrap_or(1);
        self.anchors.insert(numbered(&anchor, count - 1));
    }

    /// Checks links and code spans. Returns the files that the document links.
    fn check(
        &self,
        path: &Path,
        tree: &Tree,
        documents: &BTreeMap<&Path, Self>,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<PathBuf> {
        let mut linked = BTreeSet::new();
        for link in self.links.iter().filter(|link| is_relative(&link.text)) {
            match resolve(path, &link.text, tree, documents) {
                Ok(target) => _ = linked.insert(target),
                Err(message) => findings.push(Finding::new(path, link.line, message)),
            }
        }
        for code in &self.code {
            if is_missing_path(&code.text, tree) {
                findings.push(Finding::new(path, code.line, format!("there is no file {}", code.text)));
            }
        }
        linked
    }
}

fn place(source: &str, range: &Range<usize>, text: &str) -> Place {
    Place { text: text.to_owned(), line: source[..range.start].matches('\n').count() + 1 }
}

fn numbered(anchor: &str, count: usize) -> String {
    if count == 0 { anchor.to_owned() } else { format!("{anchor}-{count}") }
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

/// The file that a link names.
fn resolve(
    from: &Path,
    link: &str,
    tree: &Tree,
    documents: &BTreeMap<&Path, Document>,
) -> Result<PathBuf, String> {
    let (file, fragment) =
        link.split_once('#').map_or((link, None), |(file, fragment)| (file, Some(fragment)));
    let folder = from.parent().unwrap_or(Path::new(""));
    let target = if file.is_empty() { Some(from.to_owned()) } else { normalise(&folder.join(file)) };
    let target = target.filter(|target| tree.exists(target)).ok_or_else(|| format!("broken link: {link}"))?;
    let page = target.join(START);
    let target = if documents.contains_key(page.as_path()) { page } else { target };
    if let Some((fragment, document)) = fragment.zip(documents.get(target.as_path()))
        && !document.anchors.contains(fragment)
    {
        return Err(format!("broken link: {link}: no such heading"));
    }
    Ok(target)
}

/// True for a path of a source file, a document or a folder below a folder of the root that does not exist.
fn is_missing_path(text: &str, tree: &Tree) -> bool {
    let is_path = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    let Some((top, rest)) = text.split_once('/').filter(|_| is_path) else { return false };
    let has_top = !top.is_empty() && tree.paths().any(|path| path.starts_with(top) && path != Path::new(top));
    has_top && !rest.is_empty() && !tree.exists(Path::new(text.trim_end_matches('/')))
}

/// Documents that no chain of links reaches from README.md, and other files below `docs` that nothing links.
fn check_reached(
    documents: &BTreeMap<&Path, Document>,
    links: &BTreeMap<&Path, BTreeSet<PathBuf>>,
    tree: &Tree,
    findings: &mut Vec<Finding>,
) {
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from(START)];
    while let Some(path) = next.pop() {
        next.extend(
            links.get(path.as_path()).into_iter().flatten().filter(|path| !reached.contains(*path)).cloned(),
        );
        reached.insert(path);
    }
    let others = tree.paths().filter(|path| path.starts_with("docs"));
    let expected: BTreeSet<&Path> = documents.keys().copied().chain(others).collect();
    for path in expected.into_iter().filter(|path| !reached.contains(*path)) {
        findings.push(Finding::new(
            path,
            0,
            format!("dead document: no chain of links from {START} reaches it"),
        ));
    }
}

/// Names of documents in comments and scripts: `docs/spec/README.md`, from the root or from a folder that the file is in.
fn check_mentions(path: &Path, text: &str, tree: &Tree, findings: &mut Vec<Finding>) {
    for (at, line) in text.lines().enumerate() {
        for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'))) {
            let word = word.trim_end_matches('.');
            let is_name = word.ends_with(".md") && word.len() > ".md".len();
            let mut places = path.ancestors().skip(1).filter_map(|folder| normalise(&folder.join(word)));
            if is_name && !places.any(|place| tree.exists(&place)) {
                findings.push(Finding::new(path, at + 1, format!("there is no document {word}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Document, anchor};

    #[test]
    fn anchors_are_those_of_the_web_page() {
        let cases = [
            ("Two commands", "two-commands"),
            ("2.4 Sender duty cycle, per publication", "24-sender-duty-cycle-per-publication"),
            ("`harrier node`: what it is", "harrier-node-what-it-is"),
        ];
        for (heading, expected) in cases {
            assert_eq!(anchor(&heading.replace('`', "")), expected, "{heading}");
        }
        let document = Document::parse("# Same\n\n## Same\n\n## Same\n");
        assert_eq!(document.anchors.into_iter().collect::<Vec<_>>(), ["same", "same-1", "same-2"]);
    }

    #[test]
    fn links_in_code_are_none() {
        let document =
            Document::parse("`[a](b.svg)`\n\n```\n[a](b.svg)\n```\n\n[a](c.svg) and\n![x](d.svg)\n");
        let links: Vec<_> = document.links.iter().map(|link| (link.text.as_str(), link.line)).collect();
        assert_eq!(links, [("c.svg", 7), ("d.svg", 8)]);
    }
}
