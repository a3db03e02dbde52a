//! Messages of the order book service (docs/protocol/order-book.md): fixed structs, little endian.

use thiserror::Error;
use zerocopy::little_endian::{I64, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a request and of a reply, bytes.
pub const MESSAGE_LENGTH: usize = 48;

/// Side of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Wants to buy.
    Buy = 0,
    /// Wants to sell.
    Sell = 1,
}

impl Side {
    /// The opposite side.
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }
}

/// Request to the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Trades with matching orders; the rest stays in the book.
    Limit {
        /// Id of the order.
        id: u64,
        /// Side of the order.
        side: Side,
        /// Worst price at which the order trades.
        price: i64,
        /// Quantity; greater than 0.
        quantity: i64,
    },
    /// Trades with matching orders; the rest is dropped.
    ImmediateOrCancel {
        /// Id of the order; it never enters the book.
        id: u64,
        /// Side of the order.
        side: Side,
        /// Worst price at which the order trades.
        price: i64,
        /// Quantity; greater than 0.
        quantity: i64,
    },
    /// Reduces the quantity of an order, which keeps its place in the queue.
    Reduce {
        /// Id of the order.
        id: u64,
        /// Quantity to subtract; greater than 0.
        quantity: i64,
    },
    /// Removes an order from the book.
    Cancel {
        /// Id of the order.
        id: u64,
    },
    /// Asks for the digest of the book; changes nothing.
    Digest,
}

/// A request: an order with its sequence number in the session, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Sequence number of the request in its session.
    pub sequence: u64,
    /// The order.
    pub order: Order,
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The request was applied.
    Accepted = 0,
    /// The book holds no such order.
    UnknownOrder = 1,
    /// The book holds an order with this id already.
    DuplicateOrder = 2,
    /// The quantity is not positive.
    Invalid = 3,
    /// The sequence number was seen before; the request is not applied again.
    Repeated = 4,
}

/// A reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Sequence number of the request.
    pub sequence: u64,
    /// Outcome of the request.
    pub status: Status,
    /// Quantity that was traded immediately.
    pub filled: i64,
    /// Id of the first matched order; 0 for none.
    pub first_match: u64,
    /// Digest of the book in replies to [`Order::Digest`]; otherwise 0.
    pub digest: u64,
}

/// Errors of decoding a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OrderError {
    /// The length is wrong.
    #[error("message of {0} bytes; {MESSAGE_LENGTH} are needed")]
    Length(usize),
    /// The kind, side or status is undefined.
    #[error("{field} {value} is not defined")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        value: u8,
    },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireRequest {
    kind: u8,
    side: u8,
    reserved: [u8; 6],
    sequence: U64,
    id: U64,
    price: I64,
    quantity: I64,
    padding: [u8; 8],
}
const _: () = assert!(size_of::<WireRequest>() == MESSAGE_LENGTH);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireReply {
    kind: u8,
    status: u8,
    reserved: [u8; 6],
    sequence: U64,
    filled: I64,
    first_match: U64,
    digest: U64,
    padding: [u8; 8],
}
const _: () = assert!(size_of::<WireReply>() == MESSAGE_LENGTH);

const REPLY_KIND: u8 = 0x80;

impl Request {
    /// Encodes the request.
    pub fn encode(&self) -> [u8; MESSAGE_LENGTH] {
        let (kind, side, id, price, quantity) = match self.order {
            Order::Limit { id, side, price, quantity } => (1, side, id, price, quantity),
            Order::Reduce { id, quantity } => (2, Side::Buy, id, 0, quantity),
            Order::Cancel { id } => (3, Side::Buy, id, 0, 0),
            Order::ImmediateOrCancel { id, side, price, quantity } => (4, side, id, price, quantity),
            Order::Digest => (5, Side::Buy, 0, 0, 0),
        };
        let wire = WireRequest {
            kind,
            side: side as u8,
            reserved: [0; 6],
            sequence: self.sequence.into(),
            id: id.into(),
            price: price.into(),
            quantity: quantity.into(),
            padding: [0; 8],
        };
        wire.as_bytes().try_into().expect("a request has its length")
    }

    /// Decodes a request.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OrderError> {
        let wire = WireRequest::ref_from_bytes(bytes).map_err(|_| OrderError::Length(bytes.len()))?;
        let side = match wire.side {
            0 => Side::Buy,
            1 => Side::Sell,
            value => return Err(OrderError::Value { field: "side", value }),
        };
        let (id, price, quantity) = (wire.id.get(), wire.price.get(), wire.quantity.get());
        let order = match wire.kind {
            1 => Order::Limit { id, side, price, quantity },
            2 => Order::Reduce { id, quantity },
            3 => Order::Cancel { id },
            4 => Order::ImmediateOrCancel { id, side, price, quantity },
            5 => Order::Digest,
            value => return Err(OrderError::Value { field: "kind", value }),
        };
        Ok(Self { sequence: wire.sequence.get(), order })
    }
}

impl Reply {
    /// Encodes the reply.
    pub fn encode(&self) -> [u8; MESSAGE_LENGTH] {
        let wire = WireReply {
            kind: REPLY_KIND,
            status: self.status as u8,
            reserved: [0; 6],
            sequence: self.sequence.into(),
            filled: self.filled.into(),
            first_match: self.first_match.into(),
            digest: self.digest.into(),
            padding: [0; 8],
        };
        wire.as_bytes().try_into().expect("a reply has its length")
    }

    /// Decodes a reply.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OrderError> {
        let wire = WireReply::ref_from_bytes(bytes).map_err(|_| OrderError::Length(bytes.len()))?;
        if wire.kind != REPLY_KIND {
            return Err(OrderError::Value { field: "kind", value: wire.kind });
        }
        let all = [
            Status::Accepted,
            Status::UnknownOrder,
            Status::DuplicateOrder,
            Status::Invalid,
            Status::Repeated,
        ];
        let status = *all
            .get(usize::from(wire.status))
            .ok_or(OrderError::Value { field: "status", value: wire.status })?;
        Ok(Self {
            sequence: wire.sequence.get(),
            status,
            filled: wire.filled.get(),
            first_match: wire.first_match.get(),
            digest: wire.digest.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_read_back() {
        for order in [
            Order::Limit { id: 7, side: Side::Sell, price: -3, quantity: 9 },
            Order::ImmediateOrCancel { id: 8, side: Side::Buy, price: 3, quantity: 9 },
            Order::Reduce { id: 7, quantity: 2 },
            Order::Cancel { id: 7 },
            Order::Digest,
        ] {
            let request = Request { sequence: 5, order };
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let reply = Reply { sequence: 5, status: Status::Repeated, filled: 4, first_match: 3, digest: 2 };
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(Request::decode(b"short"), Err(OrderError::Length(5)));
        let mut bytes = Request { sequence: 1, order: Order::Digest }.encode();
        bytes[0] = 9;
        assert_eq!(Request::decode(&bytes), Err(OrderError::Value { field: "kind", value: 9 }));
        bytes[1] = 2;
        assert_eq!(Request::decode(&bytes), Err(OrderError::Value { field: "side", value: 2 }));
    }
}
