//! Headings of the specifications in `docs/spec`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tree::Tree;

/// A heading number of a document: `(2, "3.4")` is spec 02 §3.4, `(5, "L7")` spec 05 L7, `(7, "12")` 07 §12.
pub type Rule = (u8, String);

/// One specification.
#[derive(Debug, Default)]
pub struct Spec {
    /// Numbers of the headings, in the order of the document.
    numbers: Vec<String>,
    /// Texts of all headings, without their numbers.
    titles: Vec<String>,
}

/// All specifications, by document number.
#[derive(Debug)]
pub struct Specs {
    documents: BTreeMap<u8, Spec>,
}

impl Specs {
    /// The documents `docs/spec/NN-*.md`.
    pub fn read(tree: &Tree) -> Self {
        let mut documents = BTreeMap::new();
        for (path, text) in tree.texts_with("md") {
            if let Some(number) = document_number(path) {
                documents.insert(number, Spec::parse(text));
            }
        }
        Self { documents }
    }

    /// True for a document number that exists.
    pub fn has_document(&self, document: u8) -> bool {
        self.documents.contains_key(&document)
    }

    /// True when a document has a heading with this number, or this rule.
    pub fn has(&self, (document, number): &Rule) -> bool {
        self.documents.get(document).is_some_and(|spec| spec.numbers.contains(number))
    }

    /// True when a document has a heading whose text begins so.
    pub fn has_title(&self, document: u8, title: &str) -> bool {
        self.documents
            .get(&document)
            .is_some_and(|spec| spec.titles.iter().any(|known| known.starts_with(title)))
    }

    /// The numbers from `first` to `last`, in the order of the document. Empty when one of them does not exist.
    pub fn range(&self, document: u8, first: &str, last: &str) -> Vec<Rule> {
        let Some(spec) = self.documents.get(&document) else { return Vec::new() };
        let place = |number: &str| spec.numbers.iter().position(|other| other == number);
        match (place(first), place(last)) {
            (Some(first), Some(last)) if first <= last => {
                spec.numbers[first..=last].iter().map(|number| (document, number.clone())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Headings that are not among `cited`, and of which no part is, by document.
    pub fn uncited(&self, cited: &BTreeSet<Rule>) -> BTreeMap<u8, Vec<String>> {
        let is_cited = |document: u8, number: &str| {
            let part = format!("{number}.");
            cited
                .iter()
                .any(|(other, rule)| *other == document && (rule == number || rule.starts_with(&part)))
        };
        let mut result = BTreeMap::new();
        for (document, spec) in &self.documents {
            let missing = spec.numbers.iter().filter(|number| !is_cited(*document, number));
            result.insert(*document, missing.cloned().collect());
        }
        result
    }
}

impl Spec {
    fn parse(text: &str) -> Self {
        let mut spec = Self::default();
        let mut is_code = false;
        for line in text.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if is_code {
                continue;
            } else if let Some(heading) = line.strip_prefix('#') {
                let heading = heading.trim_start_matches('#').trim();
                // The title of a document begins with the document's number.
                let number = if spec.titles.is_empty() { "" } else { number(heading) };
                spec.titles.push(heading[number.len()..].trim_start_matches(['.', ' ']).to_owned());
                if !number.is_empty() {
                    spec.numbers.push(number.to_owned());
                }
            } else if let Some(rule) = bold_rule(line) {
                spec.numbers.push(rule.to_owned());
            }
        }
        spec
    }
}

/// The number of the document in a path like `docs/spec/02-media-driver.md`.
pub fn document_number(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_str()?;
    let is_spec = path.parent() == Some(&PathBuf::from("docs/spec"));
    let (number, _) = name.split_once('-').filter(|_| is_spec)?;
    number.parse().ok().filter(|_| number.len() == 2)
}

/// The number that a text begins with: `3`, `3.4`, `A`, `F2`. Empty without one.
pub fn number(text: &str) -> &str {
    let letter = text.chars().next().filter(char::is_ascii_uppercase).map_or(0, char::len_utf8);
    let mut end = letter;
    for (at, byte) in text.bytes().enumerate().skip(letter) {
        let is_separator = byte == b'.' && letter == 0 && at > 0;
        let follows = text.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit);
        if byte.is_ascii_digit() {
            end = at + 1;
        } else if !(is_separator && follows) {
            break;
        }
    }
    let is_word = text[end..].chars().next().is_some_and(char::is_alphanumeric);
    if is_word { "" } else { &text[..end] }
}

/// The rule that a list item of document 05 begins with: `- **L7** Returns …`.
fn bold_rule(line: &str) -> Option<&str> {
    let (rule, _) = line.strip_prefix("- **")?.split_once("**")?;
    let digits = rule.strip_prefix('L')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_of_headings_are_told_from_words() {
        let cases = [
            ("3.4 Counters", "3.4"),
            ("1. Units", "1"),
            ("12 (L) State 9, exactly", "12"),
            ("A. Safety", "A"),
            ("F2 Own messages", "F2"),
            ("2.4, and more", "2.4"),
            ("1.", "1"),
            ("Claiming", ""),
            ("UDP frames", ""),
            ("8-byte header", "8"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
