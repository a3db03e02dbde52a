//! A table that moves names from one host to another, for tests of programs (spec 02 §5.12).

use harrier_protocol::counter_types::{Key, Label, type_id};
use harrier_ringbuf::counters::{AtomicCounter, CountersManager};
use harrier_ringbuf::transport::TransportError;

use super::NamesError;
use crate::counters::of_driver;

/// Rows, each with a counter that chooses its answer.
pub(super) struct NameTable {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    hosts: [String; 2],
    /// Choice of the answer: -1 for a failure, 0 for the first host, 1 for the second.
    choice: AtomicCounter,
}

impl NameTable {
    /// Creates a table from `name,initialHost,reResolutionHost` rows that `|` separates.
    pub(super) fn new(arguments: &str, counters: &mut CountersManager) -> Result<Self, NamesError> {
        let mut rows = Vec::new();
        for text in arguments.split('|').map(str::trim).filter(|text| !text.is_empty()) {
            let fields: Vec<&str> = text.split(',').map(str::trim).collect();
            let [name, first, second] = fields[..] else {
                return Err(NamesError::Table(arguments.to_owned()));
            };
            let key = Key::default().with(&(name.len() as i32).to_le_bytes()).with(name.as_bytes());
            let label = Label::of(format_args!(
                "NameEntry{{name='{name}', initialResolutionHost='{first}', reResolutionHost='{second}'}}"
            ));
            let choice = of_driver(counters, type_id::NAME_TABLE_ENTRY, &key, &label)?;
            rows.push(Row { name: name.to_owned(), hosts: [first.to_owned(), second.to_owned()], choice });
        }
        Ok(Self { rows })
    }

    /// Returns the host for a name; `None` when the table does not have the name.
    pub(super) fn look_up(&self, name: &str) -> Result<Option<&str>, TransportError> {
        let Some(row) = self.rows.iter().find(|row| row.name == name) else { return Ok(None) };
        match row.choice.get() {
            0 => Ok(Some(&row.hosts[0])),
            1 => Ok(Some(&row.hosts[1])),
            _ => Err(TransportError::Forced { name: name.to_owned() }),
        }
    }
}
