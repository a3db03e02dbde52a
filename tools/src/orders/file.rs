//! Order files: time, type, order id, size, price, direction in each row; plain or gzip.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use harrier::services::orders::{Order, Side};
use thiserror::Error;

use super::{Flow, FlowOrder};

const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// Reason why an order file cannot be used.
#[derive(Debug, Error)]
pub enum OrderFileError {
    /// The file cannot be opened or read.
    #[error("cannot read orders from {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A row is not an order event.
    #[error("{} line {line}: {reason}; rows are time,type,order id,size,price,direction", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1 on.
        line: usize,
        /// Fault of the row.
        reason: String,
    },
    /// The file has no row with an effect on a visible book.
    #[error("{} holds no orders", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads all rows of a file.
///
/// # Errors
/// See [`OrderFileError`].
pub fn read(path: &Path) -> Result<Flow, OrderFileError> {
    let io = |source| OrderFileError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut magic = [0; 2];
    let is_gzip = file.read(&mut magic).map_err(io)? == 2 && magic == GZIP_MAGIC;
    file.rewind().map_err(io)?;
    let reader = BufReader::new(file);
    let lines: Box<dyn BufRead> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(reader))) } else { Box::new(reader) };
    let mut flow = Flow::default();
    for (index, line) in lines.lines().enumerate() {
        let line = line.map_err(io)?;
        if line.trim().is_empty() {
            continue;
        }
        match row(&line, index as u64) {
            Ok(Some(order)) => flow.orders.push(order),
            Ok(None) => flow.skipped += 1,
            Err(reason) => {
                return Err(OrderFileError::Row { path: path.to_owned(), line: index + 1, reason });
            }
        }
    }
    if flow.orders.is_empty() {
        return Err(OrderFileError::Empty { path: path.to_owned() });
    }
    flow.first_pass = flow.orders.len();
    Ok(flow)
}

/// Parses one row; returns `None` when it has no effect on a visible book.
fn row(line: &str, number: u64) -> Result<Option<FlowOrder>, String> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [_, kind, id, size, price, direction] = fields[..] else {
        return Err(format!("{} fields instead of 6", fields.len()));
    };
    let integer =
        |name: &str, text: &str| text.parse::<i64>().map_err(|_| format!("{name} '{text}' is no number"));
    let id = u64::try_from(integer("order id", id)?).map_err(|_| format!("order id {id} is negative"))?;
    let (quantity, price) = (integer("size", size)?, integer("price", price)?);
    let side = match direction {
        "1" => Side::Buy,
        "-1" => Side::Sell,
        other => return Err(format!("direction '{other}' is neither 1 nor -1")),
    };
    let order = match kind {
        "1" => Order::Limit { id, side, price, quantity },
        "2" => Order::Reduce { id, quantity },
        "3" => Order::Cancel { id },
        // The order that executed the visible one is not in the file; this order stands for it.
        "4" => {
            let order = Order::ImmediateOrCancel { id: number, side: side.opposite(), price, quantity };
            return Ok(Some(FlowOrder { order, named: Some(id) }));
        }
        "5" | "6" | "7" => return Ok(None),
        other => return Err(format!("type '{other}' is not one of 1 to 7")),
    };
    Ok(Some(FlowOrder { order, named: None }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const ROWS: &str =
        "34200.1,1,10,5,1000,1\n34200.2,4,10,5,1000,1\n34200.3,5,0,1,1000,1\n34200.4,3,10,5,1000,1\n";

    #[test]
    fn plain_and_gzip_read_alike() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("orders.csv");
        std::fs::write(&plain, ROWS).unwrap();
        let packed = directory.path().join("orders.csv.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), Default::default());
        encoder.write_all(ROWS.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let (one, two) = (read(&plain).unwrap(), read(&packed).unwrap());
        assert_eq!(one.orders, two.orders);
        assert_eq!((one.orders.len(), one.skipped), (3, 1));
        let taker = Order::ImmediateOrCancel { id: 1, side: Side::Sell, price: 1000, quantity: 5 };
        assert_eq!(one.orders[1], FlowOrder { order: taker, named: Some(10) });
    }

    #[test]
    fn errors_name_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orders.csv");
        for (text, wanted) in [
            ("1,1,1,1,1,1\n1,2\n", "line 2: 2 fields"),
            ("1,1,x,1,1,1\n", "order id 'x' is no number"),
            ("1,9,1,1,1,1\n", "type '9'"),
            ("1,1,1,1,1,0\n", "direction '0'"),
            ("\n", "holds no orders"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(read(&directory.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
