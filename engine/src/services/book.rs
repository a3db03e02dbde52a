//! A limit order book with price-time priority.

use std::collections::{BTreeMap, VecDeque};

use harrier_ringbuf::IdMap;

use super::orders::{Order, Side, Status};

/// An order in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resting {
    side: Side,
    price: i64,
    quantity: i64,
    /// Generation of the order with this id; queue entries of earlier generations are stale.
    generation: u64,
}

/// Orders at one price in time priority. Cancelled ones are skipped when reached.
#[derive(Debug, Default)]
struct Level {
    line: VecDeque<(u64, u64)>,
    live: usize,
}

/// Outcome of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Status of the order.
    pub status: Status,
    /// Quantity that was traded immediately.
    pub filled: i64,
    /// Id of the first matched order; 0 for none.
    pub first_match: u64,
}

/// The book.
///
/// ```
/// use harrier::services::book::Book;
/// use harrier::services::orders::{Order, Side, Status};
///
/// let mut book = Book::default();
/// book.apply(&Order::Limit { id: 1, side: Side::Sell, price: 100, quantity: 5 });
/// let outcome = book.apply(&Order::ImmediateOrCancel { id: 2, side: Side::Buy, price: 101, quantity: 7 });
/// assert_eq!((outcome.filled, outcome.first_match), (5, 1));
/// assert_eq!(book.apply(&Order::Cancel { id: 1 }).status, Status::UnknownOrder);
/// ```
#[derive(Debug, Default)]
pub struct Book {
    orders: IdMap<u64, Resting>,
    bids: BTreeMap<i64, Level>,
    asks: BTreeMap<i64, Level>,
    traded: i64,
    applied: u64,
    next_generation: u64,
}

impl Book {
    /// Applies an order.
    pub fn apply(&mut self, order: &Order) -> Outcome {
        if *order != Order::Digest {
            self.applied += 1;
        }
        match *order {
            Order::Limit { id, side, price, quantity } => self.limit(id, side, price, quantity),
            Order::ImmediateOrCancel { side, price, quantity, .. } => {
                if quantity <= 0 {
                    return outcome(Status::Invalid);
                }
                let (filled, first_match) = self.trade(side, price, quantity);
                Outcome { status: Status::Accepted, filled, first_match }
            }
            Order::Reduce { id, quantity } => self.reduce(id, quantity),
            Order::Cancel { id } => match self.orders.get(&id).copied() {
                Some(resting) => {
                    self.remove(id, resting);
                    outcome(Status::Accepted)
                }
                None => outcome(Status::UnknownOrder),
            },
            Order::Digest => outcome(Status::Accepted),
        }
    }

    fn limit(&mut self, id: u64, side: Side, price: i64, quantity: i64) -> Outcome {
        if quantity <= 0 {
            return outcome(Status::Invalid);
        }
        if self.orders.contains_key(&id) {
            return outcome(Status::DuplicateOrder);
        }
        let (filled, first_match) = self.trade(side, price, quantity);
        if filled < quantity {
            self.rest(id, side, price, quantity - filled);
        }
        Outcome { status: Status::Accepted, filled, first_match }
    }

    fn reduce(&mut self, id: u64, quantity: i64) -> Outcome {
        let Some(resting) = self.orders.get_mut(&id) else { return outcome(Status::UnknownOrder) };
        if quantity <= 0 {
            return outcome(Status::Invalid);
        }
        resting.quantity = resting.quantity.saturating_sub(quantity);
        if resting.quantity <= 0 {
            let resting = *resting;
            self.remove(id, resting);
        }
        outcome(Status::Accepted)
    }

    fn levels(&mut self, side: Side) -> &mut BTreeMap<i64, Level> {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    fn remove(&mut self, id: u64, resting: Resting) {
        self.orders.remove(&id);
        let levels = self.levels(resting.side);
        if let Some(level) = levels.get_mut(&resting.price) {
            level.live -= 1;
            if level.live == 0 {
                levels.remove(&resting.price);
            }
        }
    }

    /// Trades with the other side: best price first, oldest order first.
    fn trade(&mut self, side: Side, limit: i64, quantity: i64) -> (i64, u64) {
        let mut filled = 0;
        let mut first_match = 0;
        while filled < quantity {
            let best = match side {
                Side::Buy => self.asks.first_key_value().map(|(price, _)| *price).filter(|p| *p <= limit),
                Side::Sell => self.bids.last_key_value().map(|(price, _)| *price).filter(|p| *p >= limit),
            };
            let Some(price) = best else { break };
            let Some((id, resting)) = self.front(side.opposite(), price) else { continue };
            if first_match == 0 {
                first_match = id;
            }
            let traded = resting.quantity.min(quantity - filled);
            filled += traded;
            if traded == resting.quantity {
                self.remove(id, resting);
            } else if let Some(resting) = self.orders.get_mut(&id) {
                resting.quantity -= traded;
            }
        }
        self.traded = self.traded.wrapping_add(filled);
        (filled, first_match)
    }

    /// Returns the oldest order at a price and drops stale queue entries before it.
    fn front(&mut self, side: Side, price: i64) -> Option<(u64, Resting)> {
        loop {
            let (id, generation) = *self.levels(side).get(&price)?.line.front()?;
            if let Some(resting) = self.orders.get(&id)
                && resting.generation == generation
            {
                return Some((id, *resting));
            }
            self.levels(side).get_mut(&price)?.line.pop_front();
        }
    }

    /// Number of orders in the book.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// True when the book holds no order.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Total traded quantity and number of applied orders.
    pub fn totals(&self) -> (i64, u64) {
        (self.traded, self.applied)
    }

    /// Creates an empty book with these totals.
    pub fn with_totals(traded: i64, applied: u64) -> Self {
        Self { traded, applied, ..Self::default() }
    }

    /// All orders with side, price and quantity in queue order: bids, then asks, by price.
    pub fn orders(&self) -> impl Iterator<Item = (u64, Side, i64, i64)> {
        self.bids.values().chain(self.asks.values()).flat_map(|level| &level.line).filter_map(
            |(id, generation)| {
                let order = self.orders.get(id).filter(|order| order.generation == *generation)?;
                Some((*id, order.side, order.price, order.quantity))
            },
        )
    }

    /// Appends an order to its queue without trading. Returns false when the book holds it already.
    pub fn rest(&mut self, id: u64, side: Side, price: i64, quantity: i64) -> bool {
        if self.orders.contains_key(&id) {
            return false;
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        self.orders.insert(id, Resting { side, price, quantity, generation });
        let level = self.levels(side).entry(price).or_default();
        level.line.push_back((id, generation));
        level.live += 1;
        true
    }

    /// Digest of the whole state: every order in its queue, and the totals.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        for (side, levels) in [(Side::Buy, &self.bids), (Side::Sell, &self.asks)] {
            for (price, level) in levels {
                for (id, generation) in &level.line {
                    if let Some(order) = self.orders.get(id)
                        && order.generation == *generation
                    {
                        digest.add(side as u64);
                        digest.add(*price as u64);
                        digest.add(*id);
                        digest.add(order.quantity as u64);
                    }
                }
            }
        }
        digest.add(self.traded as u64);
        digest.add(self.applied);
        digest.0
    }
}

fn outcome(status: Status) -> Outcome {
    Outcome { status, filled: 0, first_match: 0 }
}

/// FNV-1a over words.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(id: u64, side: Side, price: i64, quantity: i64) -> Order {
        Order::Limit { id, side, price, quantity }
    }

    #[test]
    fn older_orders_at_a_better_price_trade_first() {
        let mut book = Book::default();
        book.apply(&limit(1, Side::Sell, 101, 5));
        book.apply(&limit(2, Side::Sell, 100, 5));
        book.apply(&limit(3, Side::Sell, 100, 5));
        let taken = book.apply(&limit(4, Side::Buy, 100, 7));
        assert_eq!(taken, Outcome { status: Status::Accepted, filled: 7, first_match: 2 });
        let next = book.apply(&Order::ImmediateOrCancel { id: 5, side: Side::Buy, price: 200, quantity: 1 });
        assert_eq!(next.first_match, 3);
        assert_eq!(book.len(), 2);
    }

    #[test]
    fn a_cancelled_order_loses_its_place_even_when_its_id_returns() {
        let mut book = Book::default();
        book.apply(&limit(1, Side::Buy, 100, 5));
        book.apply(&limit(2, Side::Buy, 100, 5));
        book.apply(&Order::Cancel { id: 1 });
        book.apply(&limit(1, Side::Buy, 100, 5));
        let hit = book.apply(&Order::ImmediateOrCancel { id: 9, side: Side::Sell, price: 100, quantity: 6 });
        assert_eq!((hit.filled, hit.first_match), (6, 2));
    }

    #[test]
    fn a_reduced_order_keeps_its_place() {
        let mut book = Book::default();
        book.apply(&limit(1, Side::Buy, 100, 5));
        book.apply(&limit(2, Side::Buy, 100, 5));
        book.apply(&Order::Reduce { id: 1, quantity: 4 });
        let hit = book.apply(&Order::ImmediateOrCancel { id: 9, side: Side::Sell, price: 1, quantity: 1 });
        assert_eq!(hit.first_match, 1);
        assert_eq!(book.apply(&Order::Reduce { id: 1, quantity: 1 }).status, Status::UnknownOrder);
    }

    #[test]
    fn refusals_name_their_cause() {
        let mut book = Book::default();
        book.apply(&limit(1, Side::Buy, 100, 5));
        assert_eq!(book.apply(&limit(1, Side::Buy, 100, 5)).status, Status::DuplicateOrder);
        assert_eq!(book.apply(&limit(2, Side::Buy, 100, 0)).status, Status::Invalid);
        assert_eq!(book.apply(&Order::Cancel { id: 3 }).status, Status::UnknownOrder);
    }

    #[test]
    fn the_digest_tells_states_apart_and_equal_histories_alike() {
        let mut one = Book::default();
        let mut two = Book::default();
        for book in [&mut one, &mut two] {
            book.apply(&limit(1, Side::Buy, 100, 5));
            book.apply(&limit(2, Side::Sell, 101, 5));
        }
        assert_eq!(one.digest(), two.digest());
        two.apply(&Order::Reduce { id: 1, quantity: 1 });
        assert_ne!(one.digest(), two.digest());
    }
}
