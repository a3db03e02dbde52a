//! The module trees of the packages: which source files the compiler reads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::lexer::{Token, tokens};
use crate::tree::{Tree, normalise};

/// All source files that a module tree of a package reaches.
pub fn reached(tree: &Tree) -> BTreeSet<PathBuf> {
    let mut reached = BTreeSet::new();
    let manifests =
        tree.texts().filter(|(path, _)| path.file_name().is_some_and(|name| name == "Cargo.toml"));
    for (manifest, text) in manifests {
        let folder = manifest.parent().unwrap_or(Path::new(""));
        for root in roots(tree, folder, text) {
            reach(tree, root, true, &mut reached);
        }
    }
    reached
}

/// The roots of a package: those that its manifest names, and those that Cargo finds.
fn roots(tree: &Tree, folder: &Path, manifest: &str) -> Vec<PathBuf> {
    let values = manifest.lines().filter_map(|line| line.split_once('='));
    let paths =
        values.filter(|(key, _)| key.trim() == "path").map(|(_, value)| value.trim().trim_matches('"'));
    let mut roots: Vec<_> =
        paths.filter(|path| path.ends_with(".rs")).map(|path| folder.join(path)).collect();
    roots.extend(["src/lib.rs", "src/main.rs", "build.rs"].map(|file| folder.join(file)));
    for (found, setting) in [
        ("src/bin", "autobins"),
        ("tests", "autotests"),
        ("examples", "autoexamples"),
        ("benches", "autobenches"),
    ] {
        let is_off = manifest.lines().any(|line| line.replace(' ', "") == format!("{setting}=false"));
        let found = folder.join(found);
        let is_root = |path: &&Path| {
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            let is_main = path.file_name().is_some_and(|name| name == "main.rs");
            let parent = path.parent();
            is_source && (parent == Some(&found) || is_main && parent.and_then(Path::parent) == Some(&found))
        };
        if !is_off {
            roots.extend(tree.paths().filter(is_root).map(Path::to_owned));
        }
    }
    roots
}

/// Adds a file and the files of its modules.
fn reach(tree: &Tree, file: PathBuf, is_root: bool, reached: &mut BTreeSet<PathBuf>) {
    let Some(text) = tree.text(&file) else { return };
    if !reached.insert(file.clone()) {
        return;
    }
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let is_folder_module = is_root || file.file_name().is_some_and(|name| name == "mod.rs");
    let children = if is_folder_module { folder.clone() } else { file.with_extension("") };
    for module in modules(text) {
        let inside = children.join(&module.inside);
        let candidates = match &module.place {
            Place::Name(name) => vec![inside.join(format!("{name}.rs")), inside.join(name).join("mod.rs")],
            Place::Path(path) if module.inside.as_os_str().is_empty() => vec![folder.join(path)],
            Place::Path(path) => vec![inside.join(path)],
            Place::Included(path) => vec![folder.join(path)],
        };
        for candidate in candidates.iter().filter_map(|candidate| normalise(candidate)) {
            let is_root = !matches!(module.place, Place::Name(_));
            reach(tree, candidate, is_root, reached);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// `mod name;`
    Name(String),
    /// `#[path = "…"] mod name;`
    Path(String),
    /// `include!("…")`
    Included(String),
}

/// A module in a file of its own.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    /// Folder of the modules in whose braces the declaration stands.
    inside: PathBuf,
    place: Place,
}

/// The modules that a source text declares in other files.
fn modules(text: &str) -> Vec<Module> {
    let tokens = tokens(text);
    let (mut found, mut depth, mut open) = (Vec::new(), 0_usize, Vec::<(&str, usize)>::new());
    let mut path = None;
    for (at, token) in tokens.iter().enumerate() {
        let inside = || open.iter().map(|(name, _)| name).collect();
        match (*token, &tokens[at + 1..]) {
            (Token::Word("path"), [Token::Sign('='), Token::Text(text), Token::Sign(']'), ..]) => {
                path = Some(*text)
            }
            (Token::Word("include"), [Token::Sign('!'), Token::Sign('('), Token::Text(text), ..]) => {
                found.push(Module { inside: inside(), place: Place::Included((*text).to_owned()) });
            }
            (Token::Word("mod"), [Token::Word(name), Token::Sign(';'), ..]) => {
                let place = path
                    .take()
                    .map_or_else(|| Place::Name((*name).to_owned()), |path| Place::Path(path.to_owned()));
                found.push(Module { inside: inside(), place });
            }
            (Token::Word("mod"), [Token::Word(name), Token::Sign('{'), ..]) => {
                path = None;
                open.push((name, depth));
            }
            (Token::Sign('{'), _) => depth += 1,
            (Token::Sign('}'), _) => {
                depth = depth.saturating_sub(1);
                open.pop_if(|(_, start)| *start == depth);
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Module, Place, modules};

    fn module(inside: &str, place: Place) -> Module {
        Module { inside: inside.into(), place }
    }

    #[test]
    fn declarations_of_modules_are_found() {
        let source = r#"
            #[cfg(test)]
            mod tests;
            pub(crate) mod outer {
                fn f() { if true {} }
                mod inner;
            }
            // mod not_this;
            #[path = "../other.rs"]
            mod other;
            mod own { }
            include!("generated.rs");
            mod last;
        "#;
        let expected = [
            module("", Place::Name("tests".into())),
            module("outer", Place::Name("inner".into())),
            module("", Place::Path("../other.rs".into())),
            module("", Place::Included("generated.rs".into())),
            module("", Place::Name("last".into())),
        ];
        assert_eq!(modules(source), expected);
    }
}
