//! `pregon size`: what a load needs, from what its parts cost. Pure.
//!
//! The costs are those of two shared cores of an x86-64 virtual machine, as docs/scaling.md says where they were measured.
//! Faster cores need less.

use serde::Serialize;

use crate::dispatch::batch;

/// CPU of a worker, in microseconds: to send a message that is answered after a while, to claim or settle some of a line together,
/// to take a status, to take a recipient of an upload.
const WORKER_US: Cpu = Cpu { message: 40.0, call: 80.0, status: 17.5, recipient: 1.8 };

/// The same of Redis.
const REDIS_US: Cpu = Cpu { message: 2.5, call: 60.0, status: 6.0, recipient: 5.8 };

/// Bytes of Redis for a recipient besides its values: number, state, index of numbers.
const RECIPIENT_BYTES: f64 = 25.0;

/// Bytes of Redis for a message besides: its id for a while, and four changes of state.
const MESSAGE_BYTES: f64 = 11.0 + 4.0 * 7.0;

/// What is left of a value of a recipient when it is compressed beside others of its kind.
const VALUES_COMPRESSED: f64 = 0.4;

/// Bytes of Redis for a recipient after its retention: the state byte.
const FORGOTTEN_BYTES: f64 = 2.0;

/// How busy a core may be, so that a moment that is worse than the mean does not queue.
const BUSY_MAX: f64 = 0.6;

/// Memory of one master, in GiB: it is copied page by page while it writes its file anew, and read at each start.
const MASTER_GIB_MAX: f64 = 16.0;

/// Bytes on the wire: a message with its answer, a webhook with its answer.
const MESSAGE_WIRE_BYTES: f64 = 1_700.0;
const STATUS_WIRE_BYTES: f64 = 1_100.0;

struct Cpu {
    message: f64,
    call: f64,
    status: f64,
    recipient: f64,
}

impl Cpu {
    /// Busy cores at so many messages a second, with so many calls for each, all of them uploaded in the same hours.
    fn cores(&self, messages: f64, calls_each: f64, statuses: f64) -> f64 {
        (messages * (self.message + calls_each * self.call + self.recipient) + statuses * self.status) / 1e6
    }
}

/// Calls of Redis for a message of a line that sends `rate` a second: its share of a claim and of a settlement.
fn calls_each(rate: f64) -> f64 {
    1.0 / batch::claim_rows(rate) as f64 + 1.0 / batch::settle_rows(rate)
}

/// What is to be carried.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Recipients a day.
    pub recipients: u64,
    /// Lines.
    pub lines: u32,
    /// What each of them may send in a second, inbound included.
    pub messages_per_second: f64,
    /// Share of that which campaigns leave, 0 to below 1.
    pub headroom: f64,
    /// Hours of the day in which is sent, above 0.
    pub hours: f64,
    /// Bytes of the values of a recipient.
    pub value_bytes: f64,
    /// Statuses that come for a message.
    pub statuses: f64,
    /// Days that recipients are kept.
    pub retention_days: f64,
    /// Seconds until Meta answers.
    pub answer_seconds: f64,
}

/// What that needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Messages a second, spread over the hours.
    pub messages_per_second: f64,
    /// What the lines can send in a second.
    pub lines_per_second: f64,
    /// Lines that would do.
    pub lines_min: u64,
    /// Hours that the lines there are need.
    pub hours: f64,
    /// Cores of workers, while all lines send.
    pub worker_cores: f64,
    /// Workers of two cores, one more than needed so that one may die.
    pub workers: u64,
    /// Lines for each of them.
    pub lines_per_worker: u64,
    /// How busy one core of Redis would be then.
    pub redis_cores: f64,
    /// Masters that share that, and the memory.
    pub redis_masters: u64,
    /// Slots of a cluster that each of them has: 0 where there are more masters than a cluster can have.
    pub slots_per_master: u64,
    /// Memory of all masters, for all that is kept.
    pub redis_gib: f64,
    /// Attempts open at once then.
    pub in_flight: u64,
    /// Megabits a second between workers and Meta then.
    pub megabits_per_second: f64,
}

/// What `load` needs.
pub fn needs(load: &Workload) -> Needs {
    let per_line = load.messages_per_second * (1.0 - load.headroom);
    let lines_per_second = per_line * f64::from(load.lines);
    let wanted = load.recipients as f64 / (load.hours * 3600.0);
    // Campaigns go as fast as their lines let them, so that everything has to carry that.
    let told = lines_per_second * load.statuses;
    let calls_each = calls_each(per_line);
    let worker_cores = WORKER_US.cores(lines_per_second, calls_each, told);
    let workers = whole(worker_cores / (2.0 * BUSY_MAX)) + 1;
    let redis_cores = REDIS_US.cores(lines_per_second, calls_each, told);
    let kept = RECIPIENT_BYTES + load.value_bytes * VALUES_COMPRESSED + MESSAGE_BYTES;
    // A year of what is left after retention.
    let redis_bytes = load.recipients as f64 * (kept * load.retention_days + FORGOTTEN_BYTES * 365.0);
    let redis_gib = redis_bytes / f64::from(1 << 30);
    let redis_masters = whole((redis_cores / BUSY_MAX).max(redis_gib / MASTER_GIB_MAX));
    Needs {
        messages_per_second: wanted,
        lines_per_second,
        lines_min: whole(wanted / per_line),
        hours: load.recipients as f64 / lines_per_second / 3600.0,
        worker_cores,
        workers,
        lines_per_worker: u64::from(load.lines).div_ceil(workers),
        redis_cores,
        redis_masters,
        slots_per_master: 16_384 / redis_masters,
        redis_gib,
        in_flight: whole(lines_per_second * load.answer_seconds),
        megabits_per_second: (lines_per_second * MESSAGE_WIRE_BYTES + told * STATUS_WIRE_BYTES) * 8.0 / 1e6,
    }
}

/// Rounded up, at least one.
fn whole(n: f64) -> u64 {
    n.ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(recipients: u64, lines: u32) -> Workload {
        Workload {
            recipients,
            lines,
            messages_per_second: 80.0,
            headroom: 0.1,
            hours: 10.0,
            value_bytes: 30.0,
            statuses: 3.0,
            retention_days: 30.0,
            answer_seconds: 0.2,
        }
    }

    #[test]
    fn lines_are_counted_by_what_campaigns_may_use_of_them() {
        let needs = needs(&load(2_592_000, 1));
        assert_eq!((needs.messages_per_second, needs.lines_per_second, needs.hours), (72.0, 72.0, 10.0));
        assert_eq!((needs.lines_min, needs.in_flight), (1, 15));
    }

    #[test]
    fn the_largest_load_that_can_be_asked_for_is_counted() {
        let needs = needs(&Workload {
            messages_per_second: 1e6,
            headroom: 0.0,
            hours: 24.0,
            value_bytes: 65_536.0,
            statuses: 100.0,
            retention_days: 3_650.0,
            answer_seconds: 120.0,
            ..load(10_000_000_000, 1_000_000)
        });
        assert_eq!(needs.in_flight, 120_000_000_000_000);
        assert_eq!((needs.lines_per_worker, needs.slots_per_master), (1, 0));
    }

    #[test]
    fn a_message_of_a_fast_line_costs_less_than_one_of_a_slow_line() {
        let cores = |lines, messages_per_second| {
            let needs = needs(&Workload { messages_per_second, ..load(1_000_000, lines) });
            (needs.worker_cores, needs.redis_cores)
        };
        let (slow, fast) = (cores(1_000, 80.0), cores(80, 1_000.0));
        assert!(fast.0 < 0.9 * slow.0 && fast.1 < 0.7 * slow.1, "{slow:?} {fast:?}");
    }

    #[test]
    fn too_few_lines_take_longer_and_need_no_more_cores() {
        let (few, fewer) = (needs(&load(100_000_000, 60)), needs(&load(100_000_000, 10)));
        assert_eq!((few.lines_min, fewer.lines_min), (39, 39));
        assert!(few.hours < 10.0 && fewer.hours > 10.0, "{few:?} {fewer:?}");
        assert!(fewer.worker_cores < few.worker_cores && fewer.redis_gib == few.redis_gib);
    }

    #[test]
    fn ten_times_the_load_needs_ten_times_of_what_carries_it() {
        let (one, ten) = (needs(&load(10_000_000, 100)), needs(&load(100_000_000, 1_000)));
        for (one, ten) in [
            (one.worker_cores, ten.worker_cores),
            (one.redis_cores, ten.redis_cores),
            (one.redis_gib, ten.redis_gib),
            (one.megabits_per_second, ten.megabits_per_second),
        ] {
            assert!((ten / one - 10.0).abs() < 1e-9, "{one} {ten}");
        }
        assert!(ten.redis_masters > one.redis_masters && ten.slots_per_master < one.slots_per_master);
    }
}
