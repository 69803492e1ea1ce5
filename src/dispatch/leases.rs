//! Keeping leases: decides which request to send to Redis next, and applies its response or failure.
//!
//! A state machine. The worker drives it with Redis, and `tests/simulation` in virtual time. One round is a *tick*:
//! release the leases of runners that have finished, renew the others, send the heartbeat, stop the runners of lines
//! above the share, acquire free lines up to the share, report. An error ends the tick, and the next one starts again.
//!
//! If the process dies: its leases expire, and other workers acquire the lines.
//! Never: calls Redis, reads a clock or creates a random number generator. Callers pass `now` and the generator.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, seq::SliceRandom};
use tracing::{info, warn};

use super::{
    lease::Lease,
    roster::{LineGroup, Roster},
};
use crate::{domain::LineId, redis::lines::LiveWorkers};

/// Leases are renewed and free lines are acquired at least this often.
const TICK_MAX: Duration = Duration::from_millis(500);

/// A worker registers its lines at least this often, so that they stay in the registry.
const REGISTER_EVERY: Duration = Duration::from_secs(60);

/// A request to Redis.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseRequest {
    /// Release the lease of this epoch on a line. Response: `Done`.
    Release(LineId, u64),
    /// Renew the leases of these epochs; acquire those without one. Response: `Epochs`.
    Acquire(Vec<(LineId, Option<u64>)>),
    /// Register the lines of this worker. `replaced`: other workers may know an earlier list. Response: `Done`.
    Register {
        /// Whether other workers have to read the lists again.
        replaced: bool,
    },
    /// Register this worker as live for one lease. Response: `Live`.
    Heartbeat,
    /// Read the lists of these workers. Response: `Lists`.
    Lists(Vec<String>),
    /// Read the remaining time of the leases on these lines. Response: `Ttls`.
    Ttls(Vec<LineId>),
    /// Store a report on each owned line. Response: `Done`.
    Report,
    /// Remove this worker, because it stops. Response: `Done`.
    Leave,
}

/// The response of Redis to a [`LeaseRequest`], in the same order.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseResponse {
    /// It is done.
    Done,
    /// The epoch of each lease; `None` if another worker has it, or if the lease to renew has expired.
    Epochs(Vec<Option<u64>>),
    /// The live workers.
    Live(LiveWorkers),
    /// The lines that each worker lists; `None` if it has registered none.
    Lists(Vec<Option<HashSet<LineId>>>),
    /// The remaining time of each lease; `None` for a line without one.
    Ttls(Vec<Option<Duration>>),
}

/// What the caller has to do: start and stop runners, then the step `next`.
#[derive(Debug)]
pub struct LeaseTurn {
    /// Lines whose runner starts, each with its lease.
    pub start: Vec<(LineId, Arc<Lease>)>,
    /// Lines whose runner stops. Once it has finished, the caller passes the line to [`LeaseKeeper::tick`].
    pub stop: Vec<LineId>,
    /// The step after starting and stopping the runners.
    pub next: LeaseStep,
}

/// The next step of the caller.
#[derive(Debug, PartialEq)]
pub enum LeaseStep {
    /// Send the request, and pass the response to [`LeaseKeeper::response`].
    Request(LeaseRequest),
    /// Wait this long, or until the worker is to stop, then call [`LeaseKeeper::tick`]. `succeeded`: every request of
    /// this tick that matters for leases succeeded.
    Wait {
        /// The pause.
        pause: Duration,
        /// Whether the tick succeeded.
        succeeded: bool,
    },
    /// The worker has stopped and owns nothing.
    End,
}

struct OwnedLine {
    lease: Arc<Lease>,
    stopping: bool,
}

/// The request whose response is awaited, and what the response needs.
enum Awaited {
    Nothing,
    /// The line whose lease is released, and the leases to release after it.
    Release(LineId, Vec<(LineId, u64)>),
    Renewal {
        requested_at: Instant,
    },
    Registration,
    Heartbeat,
    Lists {
        workers: Vec<String>,
        unread: Vec<String>,
    },
    /// `room`: the index of each group, and how many of its lines this worker may acquire.
    Ttls {
        lines: Vec<LineId>,
        room: Vec<(usize, usize)>,
    },
    Acquisition {
        lines: Vec<LineId>,
        requested_at: Instant,
    },
    Report,
    Leave,
}

/// Keeps the leases of one worker.
///
/// The unit of balance is the line. Workers that list the same lines share them equally: each acquires free lines up to
/// its share, and gives back lines above its share.
pub struct LeaseKeeper {
    /// The lines that this worker lists.
    lines: Vec<LineId>,
    /// Whether other workers may know an earlier list.
    is_replaced: bool,
    length: Duration,
    register_every: Duration,
    owned: BTreeMap<LineId, OwnedLine>,
    roster: Roster,
    shares: Vec<LineGroup>,
    registered_at: Option<Instant>,
    worker_stops: bool,
    awaited: Awaited,
    start: Vec<(LineId, Arc<Lease>)>,
    stop: Vec<LineId>,
}

impl LeaseKeeper {
    /// Starts without any lease. Leases are of `length`; lines stay in the registry for `id_retention`.
    pub fn new(lines: Vec<LineId>, length: Duration, id_retention: Duration) -> Self {
        Self {
            lines,
            is_replaced: false,
            length,
            register_every: REGISTER_EVERY.min(id_retention / 4),
            owned: BTreeMap::new(),
            roster: Roster::default(),
            shares: Vec::new(),
            registered_at: None,
            worker_stops: false,
            awaited: Awaited::Nothing,
            start: Vec::new(),
            stop: Vec::new(),
        }
    }

    /// Replaces the lines that this worker lists. The caller has stopped the runners of `stale` lines. Those of them that
    /// are still listed are acquired again, once they have finished.
    pub fn set_lines<'l>(&mut self, lines: Vec<LineId>, stale: impl IntoIterator<Item = &'l LineId>) {
        self.lines = lines;
        (self.is_replaced, self.registered_at) = (true, None);
        self.shares.clear();
        for line in stale {
            if let Some(owned) = self.owned.get_mut(line) {
                owned.stopping = true;
            }
        }
    }

    /// Begins a tick. `finished`: lines whose runners have finished since the last one.
    pub fn tick(&mut self, finished: Vec<LineId>, worker_stops: bool, now: Instant) -> LeaseTurn {
        self.worker_stops = worker_stops;
        let ended = finished.into_iter().filter_map(|line| {
            let owned = self.owned.remove(&line)?;
            Some((line, owned.lease.epoch))
        });
        let ended = ended.collect();
        let next = self.release(ended, now);
        self.turn(next)
    }

    /// Applies the response to the last request; `None` if it failed or timed out.
    pub fn response(&mut self, response: Option<LeaseResponse>, now: Instant, rng: &mut impl Rng) -> LeaseTurn {
        let next = match (mem::replace(&mut self.awaited, Awaited::Nothing), response) {
            (Awaited::Release(line, ended), Some(LeaseResponse::Done)) => {
                if !self.lines.contains(&line) {
                    info!(line.id = %line, "line released: the configuration does not list it any more");
                }
                self.release(ended, now)
            }
            // The other leases expire.
            (Awaited::Release(..), None) => self.renew(now),
            (Awaited::Renewal { requested_at }, Some(LeaseResponse::Epochs(epochs))) => {
                self.renewed(requested_at, &epochs);
                self.after_renewal(now)
            }
            (Awaited::Registration, Some(LeaseResponse::Done)) => {
                (self.is_replaced, self.registered_at) = (false, Some(now));
                self.request(Awaited::Heartbeat, LeaseRequest::Heartbeat)
            }
            (Awaited::Heartbeat, Some(LeaseResponse::Live(live))) => self.live(live, rng),
            (Awaited::Lists { workers, unread }, Some(LeaseResponse::Lists(lists))) => {
                self.update_roster(workers, unread.into_iter().zip(lists));
                self.balance(rng)
            }
            (Awaited::Ttls { lines, room }, Some(LeaseResponse::Ttls(ttls))) => self.acquire(lines, &ttls, &room, now),
            (Awaited::Acquisition { lines, requested_at }, Some(LeaseResponse::Epochs(epochs))) => {
                self.acquired(lines, requested_at, epochs);
                self.request(Awaited::Report, LeaseRequest::Report)
            }
            (Awaited::Report, Some(LeaseResponse::Done)) => self.end_tick(true),
            (Awaited::Leave, _) => LeaseStep::End,
            (_, None) => self.end_tick(false),
            (_, Some(response)) => unreachable!("{response:?} to another request"),
        };
        self.turn(next)
    }

    fn turn(&mut self, next: LeaseStep) -> LeaseTurn {
        LeaseTurn { start: mem::take(&mut self.start), stop: mem::take(&mut self.stop), next }
    }

    fn request(&mut self, awaited: Awaited, request: LeaseRequest) -> LeaseStep {
        self.awaited = awaited;
        LeaseStep::Request(request)
    }

    fn release(&mut self, mut ended: Vec<(LineId, u64)>, now: Instant) -> LeaseStep {
        match ended.pop() {
            Some((line, epoch)) => {
                self.request(Awaited::Release(line.clone(), ended), LeaseRequest::Release(line, epoch))
            }
            None => self.renew(now),
        }
    }

    fn renew(&mut self, now: Instant) -> LeaseStep {
        if self.owned.is_empty() {
            return self.after_renewal(now);
        }
        let leases = self.owned.iter().map(|(line, owned)| (line.clone(), Some(owned.lease.epoch))).collect();
        self.request(Awaited::Renewal { requested_at: now }, LeaseRequest::Acquire(leases))
    }

    /// `epochs` are in the order of the owned lines. The owned lines change only between ticks and after the renewal.
    fn renewed(&mut self, requested_at: Instant, epochs: &[Option<u64>]) {
        for ((line, owned), epoch) in self.owned.iter().zip(epochs) {
            if epoch.is_some() {
                owned.lease.renewed(requested_at, self.length);
            } else {
                warn!(line.id = %line, "the lease was lost");
                owned.lease.lost();
            }
        }
    }

    fn after_renewal(&mut self, now: Instant) -> LeaseStep {
        if self.worker_stops {
            for (line, owned) in self.owned.iter_mut().filter(|(_, owned)| !owned.stopping) {
                owned.stopping = true;
                self.stop.push(line.clone());
            }
            return self.end_tick(true);
        }
        // The list goes before the heartbeat: a live worker without a list counts as one of an older version, which
        // lists every line.
        if self.registered_at.is_none_or(|at| now.duration_since(at) >= self.register_every) {
            return self.request(Awaited::Registration, LeaseRequest::Register { replaced: self.is_replaced });
        }
        self.request(Awaited::Heartbeat, LeaseRequest::Heartbeat)
    }

    fn live(&mut self, live: LiveWorkers, rng: &mut impl Rng) -> LeaseStep {
        if !live.is_registered {
            // Redis lost its data, or this worker was removed as dead: the list is written again at the next tick.
            self.registered_at = None;
        }
        self.roster.set_lists_version(live.lists_version);
        let unread = self.roster.unread(&live.workers);
        if !unread.is_empty() {
            let awaited = Awaited::Lists { workers: live.workers, unread: unread.clone() };
            return self.request(awaited, LeaseRequest::Lists(unread));
        }
        self.update_roster(live.workers, []);
        self.balance(rng)
    }

    fn update_roster(
        &mut self,
        workers: Vec<String>,
        lists: impl IntoIterator<Item = (String, Option<HashSet<LineId>>)>,
    ) {
        if self.roster.update(workers, lists) || self.shares.is_empty() {
            self.shares = self.roster.shares(&self.lines);
            self.roster.warn_of_differences(&self.lines);
        }
    }

    /// Stops the runners of lines above the share, and looks for free lines if the worker has fewer than its share.
    fn balance(&mut self, rng: &mut impl Rng) -> LeaseStep {
        let mut room = Vec::new();
        for (index, group) in self.shares.iter().enumerate() {
            let is_staying = |(line, owned): &(&LineId, &mut OwnedLine)| !owned.stopping && group.lines.contains(*line);
            let mut staying: Vec<_> = self.owned.iter_mut().filter(is_staying).collect();
            if staying.len() < group.lines_max {
                room.push((index, group.lines_max - staying.len()));
            }
            for (line, owned) in staying.drain(group.lines_max.min(staying.len())..) {
                info!(line.id = %line, "line given up to another worker");
                owned.stopping = true;
                self.stop.push(line.clone());
            }
        }
        let has_room = |line: &LineId| room.iter().any(|(index, _)| self.shares[*index].lines.contains(line));
        let others = self.lines.iter().filter(|line| !self.owned.contains_key(*line) && has_room(line));
        let mut lines: Vec<LineId> = others.cloned().collect();
        if lines.is_empty() {
            return self.request(Awaited::Report, LeaseRequest::Report);
        }
        // Shuffled, so that workers that start together do not all try the same lines first.
        lines.shuffle(rng);
        self.request(Awaited::Ttls { lines: lines.clone(), room }, LeaseRequest::Ttls(lines))
    }

    /// Acquires free lines: for each group, at most the number in `room`.
    fn acquire(
        &mut self,
        lines: Vec<LineId>,
        ttls: &[Option<Duration>],
        room: &[(usize, usize)],
        now: Instant,
    ) -> LeaseStep {
        let (free, held): (Vec<_>, Vec<_>) = lines.into_iter().zip(ttls).partition(|(_, ttl)| ttl.is_none());
        let of_group = |&(index, n): &(usize, usize)| {
            let group = &self.shares[index].lines;
            free.iter().map(|(line, _)| line).filter(|line| group.contains(*line)).take(n)
        };
        // If a lease lasts longer than any new lease, the clock of Redis was set back after its acquisition. An attempt
        // to acquire the lease makes `acquire.lua` shorten it.
        let overlong = held.iter().filter(|(_, ttl)| **ttl > Some(self.length)).map(|(line, _)| line);
        let lines: Vec<LineId> = room.iter().flat_map(of_group).chain(overlong).cloned().collect();
        if lines.is_empty() {
            return self.request(Awaited::Report, LeaseRequest::Report);
        }
        let leases = lines.iter().map(|line| (line.clone(), None)).collect();
        self.request(Awaited::Acquisition { lines, requested_at: now }, LeaseRequest::Acquire(leases))
    }

    fn acquired(&mut self, lines: Vec<LineId>, requested_at: Instant, epochs: Vec<Option<u64>>) {
        for (line, epoch) in lines.into_iter().zip(epochs) {
            let Some(epoch) = epoch else { continue };
            let lease = Arc::new(Lease::new(epoch, requested_at, self.length));
            info!(line.id = %line, epoch, "line taken");
            self.owned.insert(line.clone(), OwnedLine { lease: lease.clone(), stopping: false });
            self.start.push((line, lease));
        }
    }

    fn end_tick(&mut self, succeeded: bool) -> LeaseStep {
        if self.worker_stops && self.owned.is_empty() {
            return self.request(Awaited::Leave, LeaseRequest::Leave);
        }
        let tick = TICK_MAX.min(self.length / 5);
        LeaseStep::Wait { pause: if self.worker_stops { tick / 10 } else { tick }, succeeded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn keeper(lines: &[&str]) -> LeaseKeeper {
        let lines = lines.iter().map(|line| LineId::from(*line)).collect();
        LeaseKeeper::new(lines, LENGTH, Duration::from_secs(3_600))
    }

    fn live() -> LeaseResponse {
        LeaseResponse::Live(LiveWorkers { workers: vec!["a".to_owned()], is_registered: true, lists_version: 0 })
    }

    /// Runs a tick at `now` in which Redis grants every lease in epoch 7, except that requests of `failing` fail.
    /// Returns the requests, and the turn after the last response.
    fn tick(
        keeper: &mut LeaseKeeper,
        finished: &[&str],
        stops: bool,
        now: Instant,
        failing: impl Fn(&LeaseRequest) -> bool,
    ) -> (Vec<LeaseRequest>, LeaseTurn) {
        let mut requests = Vec::new();
        let mut turn = keeper.tick(finished.iter().map(|line| LineId::from(*line)).collect(), stops, now);
        while let LeaseStep::Request(request) = &turn.next {
            let response = match request {
                LeaseRequest::Acquire(leases) => LeaseResponse::Epochs(vec![Some(7); leases.len()]),
                LeaseRequest::Heartbeat => live(),
                LeaseRequest::Lists(workers) => LeaseResponse::Lists(vec![None; workers.len()]),
                LeaseRequest::Ttls(lines) => LeaseResponse::Ttls(vec![None; lines.len()]),
                _ => LeaseResponse::Done,
            };
            requests.push(request.clone());
            let response = (!failing(request)).then_some(response);
            let (mut start, mut stop) = (turn.start, turn.stop);
            turn = keeper.response(response, now, &mut rand::rng());
            start.append(&mut turn.start);
            stop.append(&mut turn.stop);
            (turn.start, turn.stop) = (start, stop);
        }
        (requests, turn)
    }

    #[test]
    fn a_worker_registers_before_its_heartbeat_and_leaves_last() {
        let (mut keeper, now) = (keeper(&["1"]), Instant::now());
        let (line, lists) = (LineId::from("1"), LeaseRequest::Lists(vec!["a".to_owned()]));
        let (requests, turn) = tick(&mut keeper, &[], false, now, |_| false);
        let [ttls, acquire] =
            [LeaseRequest::Ttls(vec![line.clone()]), LeaseRequest::Acquire(vec![(line.clone(), None)])];
        let (register, report) = (LeaseRequest::Register { replaced: false }, LeaseRequest::Report);
        assert_eq!(requests, [register, LeaseRequest::Heartbeat, lists.clone(), ttls, acquire, report]);
        assert_eq!(turn.start.len(), 1);
        let renew = LeaseRequest::Acquire(vec![(line.clone(), Some(7))]);
        let (requests, turn) = tick(&mut keeper, &[], true, now, |_| false);
        assert_eq!((requests, turn.stop), (vec![renew], vec![line.clone()]));
        let (requests, turn) = tick(&mut keeper, &["1"], true, now, |_| false);
        assert_eq!((requests, turn.next), (vec![LeaseRequest::Release(line, 7), LeaseRequest::Leave], LeaseStep::End));
    }

    #[test]
    fn a_replaced_list_is_announced_and_changed_lines_are_acquired_again() {
        let (mut keeper, now) = (keeper(&["1", "2"]), Instant::now());
        tick(&mut keeper, &[], false, now, |_| false);
        let [changed, gone, new] = ["1", "2", "3"].map(LineId::from);
        keeper.set_lines(vec![changed.clone(), new.clone()], [&changed, &gone]);
        let is_failing = |request: &LeaseRequest| matches!(request, LeaseRequest::Register { .. });
        tick(&mut keeper, &[], false, now, is_failing);
        let (requests, turn) = tick(&mut keeper, &[], false, now, |_| false);
        assert!(requests.contains(&LeaseRequest::Register { replaced: true }), "{requests:?}");
        assert_eq!(turn.start.iter().map(|(line, _)| line).collect::<Vec<_>>(), [&new]);
        let (requests, turn) = tick(&mut keeper, &["1", "2"], false, now, |_| false);
        assert!(requests.contains(&LeaseRequest::Release(gone, 7)), "{requests:?}");
        assert!(requests.iter().all(|request| !is_failing(request)), "{requests:?}");
        assert_eq!(turn.start.iter().map(|(line, _)| line).collect::<Vec<_>>(), [&changed]);
    }

    #[test]
    fn a_failed_release_does_not_keep_the_others_from_renewal() {
        let (mut keeper, now) = (keeper(&["1", "2", "3"]), Instant::now());
        let (_, turn) = tick(&mut keeper, &[], false, now, |_| false);
        let kept = turn.start.iter().find(|(line, _)| line.as_str() == "3").expect("line 3").1.clone();
        let later = now + Duration::from_secs(5);
        let is_release = |request: &LeaseRequest| matches!(request, LeaseRequest::Release(..));
        let (requests, turn) = tick(&mut keeper, &["1", "2"], false, later, is_release);
        assert_eq!(requests.iter().filter(|request| is_release(request)).count(), 1);
        assert!(kept.is_valid(now + Duration::from_secs(12)));
        assert!(matches!(turn.next, LeaseStep::Wait { succeeded: true, .. }));
    }

    #[test]
    fn a_failed_renewal_ends_the_tick_and_leaves_the_leases_as_they_are() {
        let (mut keeper, now) = (keeper(&["1"]), Instant::now());
        let (_, turn) = tick(&mut keeper, &[], false, now, |_| false);
        let lease = turn.start[0].1.clone();
        let (requests, turn) = tick(&mut keeper, &[], false, now + Duration::from_secs(5), |_| true);
        assert_eq!(requests.len(), 1);
        assert!(matches!(turn.next, LeaseStep::Wait { succeeded: false, .. }) && turn.stop.is_empty());
        assert_eq!(lease.ends(), now + Duration::from_secs(8));
    }
}
