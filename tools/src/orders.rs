//! Order flows for the demonstration: a file of real events, or a seeded synthetic market.

mod file;
mod synthetic;

use harrier::services::orders::Order;

pub use file::{OrderFileError, read};
pub use synthetic::synthetic;

/// One order of a flow, and the outcome that the source names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOrder {
    /// The order.
    pub order: Order,
    /// The order that was really executed, when this order stands for an execution.
    pub named: Option<u64>,
}

/// A flow of orders.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Orders in the order in which they are sent.
    pub orders: Vec<FlowOrder>,
    /// Number of orders of the first pass over the source; the rest repeats it with other ids.
    pub first_pass: usize,
    /// Number of rows without an effect on a visible book: executions of hidden orders and halts.
    pub skipped: usize,
}

impl Flow {
    /// Repeats the flow, each time with other ids, until it has at least `count` orders.
    pub fn repeat_to(&mut self, count: usize) {
        self.first_pass = self.orders.len();
        if self.orders.is_empty() {
            return;
        }
        let ids =
            |candidate: &FlowOrder| id_of(&candidate.order).unwrap_or(0).max(candidate.named.unwrap_or(0));
        let step = self.orders.iter().map(ids).max().unwrap_or(0) + 1;
        let mut offset = step;
        while self.orders.len() < count {
            for index in 0..self.first_pass {
                let own = self.orders[index];
                let order = renumbered(&own.order, offset);
                self.orders.push(FlowOrder { order, named: own.named.map(|id| id + offset) });
            }
            offset += step;
        }
    }
}

fn id_of(order: &Order) -> Option<u64> {
    match *order {
        Order::Limit { id, .. }
        | Order::ImmediateOrCancel { id, .. }
        | Order::Reduce { id, .. }
        | Order::Cancel { id } => Some(id),
        Order::Digest => None,
    }
}

fn renumbered(order: &Order, offset: u64) -> Order {
    match *order {
        Order::Limit { id, side, price, quantity } => Order::Limit { id: id + offset, side, price, quantity },
        Order::ImmediateOrCancel { id, side, price, quantity } => {
            Order::ImmediateOrCancel { id: id + offset, side, price, quantity }
        }
        Order::Reduce { id, quantity } => Order::Reduce { id: id + offset, quantity },
        Order::Cancel { id } => Order::Cancel { id: id + offset },
        Order::Digest => Order::Digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier::services::orders::Side;

    #[test]
    fn repetitions_have_ids_of_their_own() {
        let mut flow = Flow::default();
        for order in [Order::Limit { id: 7, side: Side::Buy, price: 1, quantity: 1 }, Order::Cancel { id: 7 }]
        {
            flow.orders.push(FlowOrder { order, named: None });
        }
        flow.repeat_to(5);
        let ids: Vec<_> = flow.orders.iter().map(|entry| id_of(&entry.order).unwrap()).collect();
        assert_eq!(ids, [7, 7, 15, 15, 23, 23]);
        assert_eq!(flow.first_pass, 2);
    }
}
