//! A synthetic market: limit orders around a wandering price, cancels, reductions and takers.

use harrier::ringbuf::Rng;
use harrier::services::orders::{Order, Side};

use super::{Flow, FlowOrder};

/// Price around which the market starts.
const START_PRICE: i64 = 5_850_000;
/// Smallest step of a price.
const TICK: i64 = 100;
/// Greatest distance of limit orders from the middle, ticks.
const DEPTH_TICKS: u64 = 40;
/// Number of orders that later ones may cancel or reduce.
const REMEMBERED: usize = 4_096;

/// Creates `count` orders; the same seed gives the same orders.
pub fn synthetic(count: usize, seed: u64) -> Flow {
    let mut rng = Rng::new(seed);
    let mut flow = Flow::default();
    let mut middle = START_PRICE;
    let mut placed: Vec<u64> = Vec::with_capacity(REMEMBERED);
    let mut next_id = 1;
    while flow.orders.len() < count {
        middle += (rng.below(3) as i64 - 1) * TICK;
        let side = if rng.below(2) == 0 { Side::Buy } else { Side::Sell };
        let quantity = 1 + rng.below(200) as i64;
        let id = next_id;
        let order = match rng.below(100) {
            0..=49 => {
                next_id += 1;
                remember(&mut placed, id, &mut rng);
                let distance = (1 + rng.below(DEPTH_TICKS)) as i64 * TICK;
                let price = if side == Side::Buy { middle - distance } else { middle + distance };
                Order::Limit { id, side, price, quantity }
            }
            50..=84 if !placed.is_empty() => {
                let index = rng.below(placed.len() as u64) as usize;
                Order::Cancel { id: placed.swap_remove(index) }
            }
            85..=89 if !placed.is_empty() => {
                let index = rng.below(placed.len() as u64) as usize;
                Order::Reduce { id: placed[index], quantity }
            }
            _ => {
                next_id += 1;
                let reach = rng.below(DEPTH_TICKS) as i64 * TICK;
                let price = if side == Side::Buy { middle + reach } else { middle - reach };
                Order::ImmediateOrCancel { id, side, price, quantity }
            }
        };
        flow.orders.push(FlowOrder { order, named: None });
    }
    flow.first_pass = flow.orders.len();
    flow
}

fn remember(placed: &mut Vec<u64>, id: u64, rng: &mut Rng) {
    if placed.len() < REMEMBERED {
        placed.push(id);
    } else {
        let index = rng.below(REMEMBERED as u64) as usize;
        placed[index] = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier::services::book::Book;

    #[test]
    fn a_seed_gives_one_flow_that_trades() {
        let flow = synthetic(20_000, 7);
        assert_eq!(flow.orders, synthetic(20_000, 7).orders);
        assert_ne!(flow.orders, synthetic(20_000, 8).orders);
        let mut book = Book::default();
        let filled = flow.orders.iter().filter(|entry| book.apply(&entry.order).filled > 0).count();
        assert!(filled > 1_000, "{filled} orders traded");
        assert!(book.len() > 100);
    }
}
