//! Acks of services: where each stands (spec 04 §4.14).

use std::collections::VecDeque;

/// One ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) ack_id: i64,
    pub(super) log_position: i64,
    pub(super) relevant_id: i64,
}

/// Acks of all services in the order of their arrival.
#[derive(Debug)]
pub(super) struct Acks {
    queues: Vec<VecDeque<Ack>>,
    expected_id: i64,
}

/// Acks that a service may have waiting; more are a service gone wild.
const MAX_WAITING: usize = 1_024;

impl Acks {
    pub(super) fn new(services: usize) -> Self {
        Self { queues: vec![VecDeque::new(); services], expected_id: 0 }
    }

    /// Takes an ack; false when it is not one that a service may send.
    pub(super) fn on_ack(&mut self, service_id: i32, ack: Ack) -> bool {
        let queue = usize::try_from(service_id).ok().and_then(|id| self.queues.get_mut(id));
        match queue {
            Some(queue) if queue.len() < MAX_WAITING => {
                queue.push_back(ack);
                true
            }
            _ => false,
        }
    }

    /// Takes one ack of each service once all have reached a position. Acks of an earlier set are dropped.
    pub(super) fn take_set(&mut self, log_position: i64) -> Option<Vec<Ack>> {
        for queue in &mut self.queues {
            while queue.front().is_some_and(|ack| ack.ack_id < self.expected_id) {
                queue.pop_front();
            }
        }
        let expected_id = self.expected_id;
        let is_reached = |queue: &VecDeque<Ack>| {
            queue.front().is_some_and(|ack| ack.ack_id == expected_id && ack.log_position == log_position)
        };
        if !self.queues.iter().all(is_reached) {
            return None;
        }
        self.expected_id += 1;
        self.queues.iter_mut().map(VecDeque::pop_front).collect()
    }

    /// An ack that can never be part of the expected set: its service is out of step.
    pub(super) fn out_of_sequence(&self, log_position: i64) -> Option<(usize, Ack)> {
        self.queues.iter().enumerate().find_map(|(service, queue)| {
            let ack = *queue.front()?;
            let is_wrong = ack.ack_id > self.expected_id
                || (ack.ack_id == self.expected_id && ack.log_position != log_position);
            is_wrong.then_some((service, ack))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(ack_id: i64, log_position: i64) -> Ack {
        Ack { ack_id, log_position, relevant_id: -1 }
    }

    #[test]
    fn a_set_is_complete_when_all_services_are_there() {
        let mut acks = Acks::new(2);
        assert!(acks.on_ack(0, ack(0, 64)));
        assert_eq!(acks.take_set(64), None);
        assert!(acks.on_ack(1, ack(0, 64)));
        assert_eq!(acks.take_set(64).unwrap().len(), 2);
        assert!(!acks.on_ack(2, ack(1, 64)) && !acks.on_ack(-1, ack(1, 64)));
    }

    #[test]
    fn a_service_out_of_step_is_named() {
        let mut acks = Acks::new(1);
        acks.on_ack(0, ack(0, 96));
        assert_eq!(acks.take_set(64), None);
        assert_eq!(acks.out_of_sequence(64), Some((0, ack(0, 96))));
    }

    #[test]
    fn without_services_every_set_is_complete() {
        assert_eq!(Acks::new(0).take_set(5), Some(Vec::new()));
    }
}
