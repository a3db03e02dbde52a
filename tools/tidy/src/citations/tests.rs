use std::path::Path;

use super::{Citation, Flow, Target};

/// The citations of a text in which ¶ stands for the sign of a section: this file is checked, too.
fn citations(source: &str, home: Option<u8>) -> Vec<Citation> {
    Flow::new(&source.replace('¶', "\u{a7}"), Path::new("a.rs")).citations(home)
}

/// The targets of a Rust source text, as text.
fn targets(source: &str) -> Vec<String> {
    citations(source, None).into_iter().map(|citation| shown(&citation.target)).collect()
}

fn shown(target: &Target) -> String {
    match target {
        Target::Document(document) => format!("{document}"),
        Target::Rule((document, number)) => format!("{document}:{number}"),
        Target::Range(document, first, last) => format!("{document}:{first}..{last}"),
        Target::Title(document, title) => format!("{document}:'{title}'"),
        Target::Unknown(number) => format!("?:{number}"),
    }
}

#[test]
fn all_forms_of_citations_are_found() {
    let cases: [(&str, &[&str]); 19] = [
        ("// spec 02 ¶3.4", &["2:3.4"]),
        ("// (spec 02 ¶3.2, ¶3.7).", &["2:3.2", "2:3.7"]),
        ("// spec 02 ¶6.2–6.4, ¶7", &["2:6.2..6.4", "2:7"]),
        ("// spec 04 ¶3–¶6", &["4:3..6"]),
        ("// spec 04 ¶5.2 state 3, and more", &["4:5.2"]),
        ("// spec 03 ¶8, 15", &["3:8"]),
        ("// spec 03 ¶1, 04 ¶1.1", &["3:1", "4:1.1"]),
        ("// spec 05 L1–L11, L22", &["5:L1..L11", "5:L22"]),
        ("// spec 05 L2 and L3", &["5:L2", "5:L3"]),
        ("// 07 ¶12 and 07 ¶F2", &["7:12", "7:F2"]),
        ("// spec 05, \"What must hold\"", &["5:'What must hold'"]),
        ("// Half of the rules of spec 02", &["2"]),
        ("// spec 02, DECISION in ¶2.8", &["2", "2:2.8"]),
        ("// (spec 02 ¶2.8). See ¶3", &["2:2.8", "?:3"]),
        ("// at 07:30 of 2026-01-02, 05 items, \\x00 and 00", &[]),
        ("let hex = [0x01, 02];", &[]),
        ("// ¶3.4 alone", &["?:3.4"]),
        ("// cited as `spec NN ¶…`", &[]),
        ("#[expect(missing_docs, reason = \"see spec 04 ¶1.6, messages 77 and 79\")]", &["4:1.6"]),
    ];
    for (source, expected) in cases {
        assert_eq!(targets(source), expected, "{source}");
    }
}

#[test]
fn a_citation_may_break_over_lines() {
    for source in [
        "fn f() {}\n    /// the rule (spec 02\n    /// ¶3.2,\n    /// ¶3.7)",
        "//! nothing\n//! the rule of spec\n//! 02 ¶3.2, ¶3.7",
        "\n# the rule of spec 02 ¶3.2,\n# ¶3.7",
    ] {
        assert_eq!(targets(source), ["2:3.2", "2:3.7"], "{source}");
        let lines: Vec<_> = citations(source, None).iter().map(|citation| citation.line).collect();
        assert!(lines == [2, 2] || lines == [3, 3], "{lines:?}: {source}");
    }
}

#[test]
fn a_specification_cites_itself_without_a_number() {
    let found = citations("see ¶3.4, and 04 ¶1.1", Some(2));
    let shown: Vec<_> = found.iter().map(|citation| shown(&citation.target)).collect();
    assert_eq!(shown, ["2:3.4", "4:1.1"]);
}
