//! The files of a repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// A file or folder that cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct TreeError {
    path: PathBuf,
    source: std::io::Error,
}

/// Extensions of the files whose text is checked.
const TEXT: [&str; 5] = ["rs", "md", "toml", "sh", "py"];

/// All files below a root, with the text of those that are checked. Paths are relative to the root.
///
/// Hidden folders other than `.ci`, folders named `target` and what the `.gitignore` of the root and of each folder names by
/// `/name` or `**/path` are left out.
#[derive(Debug)]
pub struct Tree {
    files: BTreeMap<PathBuf, Option<String>>,
}

impl Tree {
    /// Reads the repository below `root`.
    ///
    /// # Errors
    /// A file or folder that cannot be read.
    pub fn read(root: &Path) -> Result<Self, TreeError> {
        let mut tree = Self { files: BTreeMap::new() };
        tree.read_folder(root, Path::new(""), &[])?;
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &Path, ignored: &[PathBuf]) -> Result<(), TreeError> {
        let at = if folder.as_os_str().is_empty() { root.to_owned() } else { root.join(folder) };
        let fail = |path: &Path, source| TreeError { path: path.to_owned(), source };
        let mut ignored = ignored.to_vec();
        if let Ok(rules) = fs::read_to_string(at.join(".gitignore")) {
            ignored.extend(rules.lines().filter_map(|rule| ignored_path(folder, rule)));
        }
        for entry in fs::read_dir(&at).map_err(|source| fail(&at, source))? {
            let entry = entry.map_err(|source| fail(&at, source))?;
            let name = entry.file_name();
            let path = folder.join(&name);
            if ignored.contains(&path) {
                continue;
            }
            let name = name.to_string_lossy();
            let kind = entry.file_type().map_err(|source| fail(&entry.path(), source))?;
            if kind.is_dir() {
                if name != "target" && (!name.starts_with('.') || name == ".ci") {
                    self.read_folder(root, &path, &ignored)?;
                }
            } else if kind.is_file() {
                let text = has_text(&path).then(|| fs::read_to_string(entry.path()));
                let text = text.transpose().map_err(|source| fail(&entry.path(), source))?;
                self.files.insert(path, text);
            }
        }
        Ok(())
    }

    /// Paths of all files, in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// True for a file, and for a folder that has one.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.files.keys().any(|file| file.starts_with(path))
    }

    /// Text of a file that is checked.
    pub(crate) fn text(&self, path: &Path) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// The files that are checked, with their text. Golden data is not.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        let texts = self.files.iter().filter_map(|(path, text)| Some((path.as_path(), text.as_deref()?)));
        texts.filter(|(path, _)| !is_test_data(path))
    }

    /// The files of [`texts`](Self::texts) with an extension.
    pub(crate) fn texts_with(&self, extension: &str) -> impl Iterator<Item = (&Path, &str)> {
        self.texts().filter(move |(path, _)| path.extension().is_some_and(|found| found == extension))
    }
}

/// True for a path below a folder named `testdata`.
pub(crate) fn is_test_data(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "testdata")
}

/// Removes `.` and `..` from a path. `None` when it leads out of the repository.
pub(crate) fn normalise(path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if result.pop() => {}
            Component::Normal(name) => result.push(name),
            _ => return None,
        }
    }
    Some(result)
}

fn has_text(path: &Path) -> bool {
    let known = path.extension().is_some_and(|extension| TEXT.iter().any(|text| extension == *text));
    known || path.starts_with(".ci")
}

/// The path that a line of a `.gitignore` in `folder` leaves out. Only the two forms that this repository uses are known.
fn ignored_path(folder: &Path, rule: &str) -> Option<PathBuf> {
    let rule = rule.trim();
    let path = rule.strip_prefix("**/").or_else(|| rule.strip_prefix('/')).unwrap_or(rule);
    let path = path.trim_end_matches('/');
    (!path.is_empty() && !path.starts_with('#')).then(|| folder.join(path))
}
