//! Encoding of a book as messages: a header with the totals, then its orders by price in queue order.

use thiserror::Error;

use super::book::Book;
use super::orders::Side;

/// Length of the header, bytes.
const HEAD_LENGTH: usize = 32;
/// Length of an order, bytes.
const ORDER_LENGTH: usize = 25;
/// Orders per message; such a message fits into a frame.
const ORDERS_PER_MESSAGE: usize = 50;
/// Version of the layout, the first word of the header.
const VERSION: u64 = 1;

/// Errors of decoding a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BookSnapshotError {
    /// The header is missing or of an unknown version.
    #[error("{0} bytes are no head of a book of version 1")]
    Head(usize),
    /// A message does not consist of whole orders.
    #[error("{0} bytes are no whole number of orders")]
    Orders(usize),
    /// An invalid side or a duplicate order.
    #[error("order {0} is not one that a book can hold")]
    Order(u64),
    /// The number of orders differs from the header's.
    #[error("book of {expected} orders has {actual}")]
    Count {
        /// Number of orders in the header.
        expected: u64,
        /// Number of decoded orders.
        actual: u64,
    },
}

/// Passes a book's messages to `put` in order.
///
/// # Errors
/// Error of `put`.
pub fn write<E>(book: &Book, put: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let (traded, applied) = book.totals();
    let mut message = Vec::with_capacity(ORDERS_PER_MESSAGE * ORDER_LENGTH);
    for word in [VERSION, book.len() as u64, traded as u64, applied] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    put(&message)?;
    message.clear();
    for (id, side, price, quantity) in book.orders() {
        message.extend_from_slice(&id.to_le_bytes());
        message.extend_from_slice(&price.to_le_bytes());
        message.extend_from_slice(&quantity.to_le_bytes());
        message.push(side as u8);
        if message.len() == ORDERS_PER_MESSAGE * ORDER_LENGTH {
            put(&message)?;
            message.clear();
        }
    }
    if message.is_empty() { Ok(()) } else { put(&message) }
}

/// Decodes a book from its messages.
#[derive(Debug, Default)]
pub struct BookReader {
    book: Option<(Book, u64)>,
}

impl BookReader {
    /// Decodes the next message.
    ///
    /// # Errors
    /// See [`BookSnapshotError`].
    pub fn on_message(&mut self, message: &[u8]) -> Result<(), BookSnapshotError> {
        let Some((book, _)) = &mut self.book else {
            let head = <&[u8; HEAD_LENGTH]>::try_from(message)
                .map_err(|_| BookSnapshotError::Head(message.len()))?;
            let word =
                |index: usize| u64::from_le_bytes(*head[8 * index..].first_chunk().expect("within the head"));
            if word(0) != VERSION {
                return Err(BookSnapshotError::Head(message.len()));
            }
            self.book = Some((Book::with_totals(word(2) as i64, word(3)), word(1)));
            return Ok(());
        };
        let orders = message.chunks_exact(ORDER_LENGTH);
        if !orders.remainder().is_empty() {
            return Err(BookSnapshotError::Orders(message.len()));
        }
        for order in orders {
            let word = |at: usize| u64::from_le_bytes(*order[at..].first_chunk().expect("within the order"));
            let (id, price, quantity) = (word(0), word(8) as i64, word(16) as i64);
            let side = match order[24] {
                side if side == Side::Buy as u8 => Side::Buy,
                side if side == Side::Sell as u8 => Side::Sell,
                _ => return Err(BookSnapshotError::Order(id)),
            };
            if !book.rest(id, side, price, quantity) {
                return Err(BookSnapshotError::Order(id));
            }
        }
        Ok(())
    }

    /// True once all orders of the header are decoded.
    pub fn is_complete(&self) -> bool {
        self.book.as_ref().is_some_and(|(book, expected)| book.len() as u64 >= *expected)
    }

    /// Returns the book.
    ///
    /// # Errors
    /// No head has come, or another number of orders than it says.
    pub fn finish(self) -> Result<Book, BookSnapshotError> {
        let (book, expected) = self.book.ok_or(BookSnapshotError::Head(0))?;
        let actual = book.len() as u64;
        if actual == expected { Ok(book) } else { Err(BookSnapshotError::Count { expected, actual }) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::orders::Order;
    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        for id in 0..500_u64 {
            let side = if id % 3 == 0 { Side::Buy } else { Side::Sell };
            book.apply(&Order::Limit {
                id,
                side,
                price: if side == Side::Buy { 100 - (id % 7) as i64 } else { 101 + (id % 5) as i64 },
                quantity: 1 + (id % 11) as i64,
            });
            if id % 10 == 9 {
                book.apply(&Order::Cancel { id: id - 3 });
            }
        }
        book.apply(&Order::ImmediateOrCancel { id: 900, side: Side::Buy, price: 103, quantity: 100 });
        book
    }

    fn messages(book: &Book) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        write(book, &mut |message| {
            messages.push(message.to_vec());
            Ok::<(), ()>(())
        })
        .unwrap();
        messages
    }

    #[test]
    fn a_book_that_was_read_goes_on_as_the_one_that_was_written() {
        let mut book = book();
        let mut reader = BookReader::default();
        for message in messages(&book) {
            assert!(!reader.is_complete());
            reader.on_message(&message).unwrap();
        }
        assert!(reader.is_complete());
        let mut read = reader.finish().unwrap();
        assert_eq!(read.digest(), book.digest());
        for id in 1_000..1_200 {
            let order = Order::ImmediateOrCancel { id, side: Side::Sell, price: 1, quantity: 7 };
            assert_eq!(read.apply(&order), book.apply(&order));
        }
        assert_eq!(read.digest(), book.digest());
    }

    #[test]
    fn what_is_no_book_is_refused() {
        let messages = messages(&book());
        assert_eq!(BookReader::default().on_message(b"short"), Err(BookSnapshotError::Head(5)));
        assert_eq!(BookReader::default().finish().unwrap_err(), BookSnapshotError::Head(0));
        let mut reader = BookReader::default();
        reader.on_message(&messages[0]).unwrap();
        assert_eq!(reader.on_message(&[0; 26]), Err(BookSnapshotError::Orders(26)));
        assert_eq!(reader.on_message(&[9; 25]), Err(BookSnapshotError::Order(0x0909_0909_0909_0909)));
        reader.on_message(&messages[1]).unwrap();
        assert!(matches!(reader.on_message(&messages[1]), Err(BookSnapshotError::Order(_))));
        let mut cut = BookReader::default();
        cut.on_message(&messages[0]).unwrap();
        assert!(matches!(cut.finish(), Err(BookSnapshotError::Count { actual: 0, .. })));
    }
}
