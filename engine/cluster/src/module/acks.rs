//! Acks, by which services report the log positions that they have reached (spec 04 §4.14).

use std::collections::VecDeque;

/// An ack of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) ack_id: i64,
    pub(super) log_position: i64,
    /// Cluster time at the service.
    pub(super) timestamp: i64,
    /// Id of the service's client, recording of a snapshot, or -1.
    pub(super) relevant_id: i64,
}

/// Work of the services that an ack confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To start.
    Start,
    /// To join a log, or to reach the position at which they end. The relevant id of these acks is -1.
    Arrival,
    /// To take a snapshot.
    Snapshot,
}

/// Reason for which an ack is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The node does not have the service.
    UnknownService,
    /// The service has already reported its start.
    RepeatedStart,
    /// Too many acks wait.
    Flood,
}

/// An ack of a position that the log has not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfSequence {
    pub(super) service_id: usize,
    pub(super) ack: Ack,
}

#[derive(Debug, Default)]
struct Queue {
    acks: VecDeque<Ack>,
    /// Lowest id that the service's next ack can have.
    next_id: i64,
    has_started: bool,
}

/// Acks of all services in the order of their arrival.
#[derive(Debug)]
pub(super) struct Acks {
    queues: Vec<Queue>,
    strays: Vec<(usize, Ack)>,
}

/// Limit of the acks of one service that wait.
const MAX_WAITING: usize = 1_024;

impl Acks {
    pub(super) fn new(services: usize) -> Self {
        Self { queues: (0..services).map(|_| Queue::default()).collect(), strays: Vec::new() }
    }

    /// Adds an ack.
    pub(super) fn on_ack(&mut self, service_id: i32, ack: Ack) -> Result<(), Refusal> {
        let queue = usize::try_from(service_id).ok().and_then(|id| self.queues.get_mut(id));
        let queue = queue.ok_or(Refusal::UnknownService)?;
        if ack.ack_id == 0 && std::mem::replace(&mut queue.has_started, true) {
            return Err(Refusal::RepeatedStart);
        }
        if queue.acks.len() >= MAX_WAITING {
            return Err(Refusal::Flood);
        }
        queue.acks.push_back(ack);
        Ok(())
    }

    /// Takes one ack of each service once all have reached a position. Acks of lower positions, repeated ones and acks for
    /// another purpose are put aside (spec 04 §10.3, DECISION).
    pub(super) fn take_set(
        &mut self,
        log_position: i64,
        purpose: Purpose,
    ) -> Result<Option<Vec<Ack>>, OutOfSequence> {
        for (service_id, queue) in self.queues.iter_mut().enumerate() {
            while let Some(ack) = queue.acks.front().copied() {
                if ack.log_position > log_position {
                    return Err(OutOfSequence { service_id, ack });
                }
                let answers_else = purpose == Purpose::Arrival && ack.relevant_id != -1;
                if ack.log_position == log_position && ack.ack_id >= queue.next_id && !answers_else {
                    break;
                }
                queue.acks.pop_front();
                queue.next_id = queue.next_id.max(ack.ack_id + 1);
                self.strays.push((service_id, ack));
            }
        }
        if self.queues.iter().any(|queue| queue.acks.is_empty()) {
            return Ok(None);
        }
        let take = |queue: &mut Queue| {
            let ack = queue.acks.pop_front()?;
            queue.next_id = ack.ack_id + 1;
            Some(ack)
        };
        Ok(self.queues.iter_mut().map(take).collect())
    }

    /// Returns the acks that were put aside since the last call.
    pub(super) fn take_strays(&mut self) -> Vec<(usize, Ack)> {
        std::mem::take(&mut self.strays)
    }

    /// Returns the services whose acks are missing.
    pub(super) fn missing(&self) -> Vec<usize> {
        let queues = self.queues.iter().enumerate();
        queues.filter(|(_, queue)| queue.acks.is_empty()).map(|(service_id, _)| service_id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(ack_id: i64, log_position: i64) -> Ack {
        Ack { ack_id, log_position, timestamp: 0, relevant_id: -1 }
    }

    #[test]
    fn a_set_is_complete_when_all_services_are_there() {
        let mut acks = Acks::new(2);
        acks.on_ack(0, ack(0, 64)).unwrap();
        assert_eq!(acks.take_set(64, Purpose::Start), Ok(None));
        assert_eq!(acks.missing(), [1]);
        acks.on_ack(1, ack(0, 64)).unwrap();
        assert_eq!(acks.take_set(64, Purpose::Start).unwrap().unwrap().len(), 2);
        assert_eq!(acks.on_ack(2, ack(1, 64)), Err(Refusal::UnknownService));
        assert_eq!(acks.on_ack(-1, ack(1, 64)), Err(Refusal::UnknownService));
        assert_eq!(acks.on_ack(1, ack(0, 64)), Err(Refusal::RepeatedStart));
    }

    #[test]
    fn a_service_ahead_of_the_log_is_named() {
        let mut acks = Acks::new(1);
        acks.on_ack(0, ack(0, 96)).unwrap();
        let expected = OutOfSequence { service_id: 0, ack: ack(0, 96) };
        assert_eq!(acks.take_set(64, Purpose::Start), Err(expected));
    }

    #[test]
    fn acks_that_nobody_waits_for_are_put_aside() {
        let mut acks = Acks::new(1);
        acks.on_ack(0, ack(0, 0)).unwrap();
        assert!(acks.take_set(0, Purpose::Start).unwrap().is_some());
        let standby = Ack { relevant_id: 7, ..ack(1, 96) };
        acks.on_ack(0, standby).unwrap();
        acks.on_ack(0, Ack { relevant_id: 8, ..ack(2, 192) }).unwrap();
        acks.on_ack(0, ack(2, 192)).unwrap();
        acks.on_ack(0, ack(3, 192)).unwrap();
        let taken = acks.take_set(192, Purpose::Arrival).unwrap().unwrap();
        assert_eq!(taken, [ack(3, 192)]);
        assert_eq!(acks.take_strays().len(), 3);
        assert!(acks.take_strays().is_empty());
    }

    #[test]
    fn a_service_that_left_one_out_is_in_step_again() {
        let mut acks = Acks::new(1);
        acks.on_ack(0, ack(0, 0)).unwrap();
        acks.take_set(0, Purpose::Start).unwrap();
        acks.on_ack(0, Ack { relevant_id: 3, ..ack(1, 320) }).unwrap();
        assert!(acks.take_set(320, Purpose::Snapshot).unwrap().is_some());
    }

    #[test]
    fn without_services_every_set_is_complete() {
        assert_eq!(Acks::new(0).take_set(5, Purpose::Snapshot), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_flood_of_acks_is_refused() {
        let mut acks = Acks::new(1);
        for id in 0..MAX_WAITING as i64 {
            acks.on_ack(0, ack(id, 64)).unwrap();
        }
        assert_eq!(acks.on_ack(0, ack(5_000, 64)), Err(Refusal::Flood));
    }
}
