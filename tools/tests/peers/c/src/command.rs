//! One line of input: a verb and `key=value` pairs, separated by blanks.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::str::FromStr;

use crate::client::Failure;

pub struct Command {
    pub verb: String,
    values: BTreeMap<String, String>,
}

impl Command {
    pub fn parse(line: &str) -> Result<Self, Failure> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default().to_owned();
        let mut values = BTreeMap::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(Failure::of(format!("expected key=value, found: {word}")));
            };
            values.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self { verb, values })
    }

    pub fn find(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub fn text(&self, key: &str) -> Result<&str, Failure> {
        self.find(key).ok_or_else(|| Failure::of(format!("{} needs {key}", self.verb)))
    }

    pub fn c_text(&self, key: &str) -> Result<CString, Failure> {
        CString::new(self.text(key)?).map_err(|error| Failure::of(format!("{key}: {error}")))
    }

    pub fn number<N: FromStr>(&self, key: &str) -> Result<N, Failure> {
        let text = self.text(key)?;
        text.parse().map_err(|_| Failure::of(format!("{key} is no number: {text}")))
    }

    pub fn number_or<N: FromStr>(&self, key: &str, otherwise: N) -> Result<N, Failure> {
        if self.values.contains_key(key) { self.number(key) } else { Ok(otherwise) }
    }

    pub fn integer(&self, key: &str) -> Result<i32, Failure> {
        self.number(key)
    }

    pub fn flag(&self, key: &str) -> bool {
        self.find(key) == Some("true")
    }
}
