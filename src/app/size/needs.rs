//! `pregon size`: estimates the resources that a workload needs from measured unit costs. Pure.
//!
//! The costs were measured on two shared cores of an x86-64 virtual machine. docs/scaling.md names the scenario behind
//! each; change both together. Faster cores need less.

use serde::Serialize;

use crate::dispatch::batch;

/// CPU time of a worker, in microseconds.
const WORKER_US: Cpu = Cpu { message: 40.0, call: 80.0, status: 17.5, recipient: 1.8 };

/// CPU time of Redis, in microseconds.
const REDIS_US: Cpu = Cpu { message: 2.5, call: 60.0, status: 6.0, recipient: 5.8 };

/// Redis memory of a recipient without its values, in bytes: phone number, state, index of phone numbers.
const RECIPIENT_BYTES: f64 = 25.0;

/// Additional Redis memory of a sent message, in bytes: 7 for each of four changes of state.
const MESSAGE_BYTES: f64 = 4.0 * 7.0;

/// Redis memory of a message id, in bytes: 22 for the whole id, 14 to find its recipient.
const ID_BYTES: f64 = 36.0;

/// Days that a message id is kept: the default of `id_retention`, and the eighth by which the index may exceed it.
const ID_DAYS: f64 = 9.0;

/// Compressed size of a recipient's values, as a share of their size. Values of the same column compress together.
const VALUES_COMPRESSED: f64 = 0.4;

/// Redis memory of a recipient after its retention, in bytes: its state byte and its share of the campaign.
const FORGOTTEN_BYTES: f64 = 2.0;

/// The largest planned utilization of a core. The rest absorbs bursts above the mean, which would queue otherwise.
const BUSY_MAX: f64 = 0.6;

/// The largest planned memory of one Redis master, in GiB. A master copies memory pages while it rewrites its
/// append-only file, and reads that file at each start.
const MASTER_GIB_MAX: f64 = 16.0;

/// Bytes on the wire of a message with its answer.
const MESSAGE_WIRE_BYTES: f64 = 1_700.0;
/// Bytes on the wire of a webhook with one status, with its answer.
const STATUS_WIRE_BYTES: f64 = 1_100.0;

/// CPU time by unit of work, in microseconds.
struct Cpu {
    /// Sending a message, with an answer after 200 ms.
    message: f64,
    /// A claim or a settlement of several rows of one line.
    call: f64,
    /// Handling a status.
    status: f64,
    /// Storing a recipient of an upload.
    recipient: f64,
}

impl Cpu {
    /// Busy cores at `messages` and `statuses` a second, with `calls_each` calls for each message. Assumes that
    /// recipients are uploaded as fast as messages are sent.
    fn cores(&self, messages: f64, calls_each: f64, statuses: f64) -> f64 {
        (messages * (self.message + calls_each * self.call + self.recipient) + statuses * self.status) / 1e6
    }
}

/// Redis calls for each message of a line that sends `rate` a second: its share of a claim and of a settlement.
fn calls_each(rate: f64) -> f64 {
    1.0 / batch::claim_rows(rate) as f64 + 1.0 / batch::settle_rows(rate)
}

/// A workload to size for.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Recipients a day.
    pub recipients: u64,
    /// Lines.
    pub lines: u32,
    /// Rate of each line, in messages a second, inbound included.
    pub messages_per_second: f64,
    /// Share of the rate that campaigns leave unused, from 0 to below 1.
    pub headroom: f64,
    /// Hours of sending a day, above 0.
    pub hours: f64,
    /// Bytes of the values of a recipient.
    pub value_bytes: f64,
    /// Statuses for each message.
    pub statuses: f64,
    /// Days that recipients are kept.
    pub retention_days: f64,
    /// Seconds until Meta answers a send.
    pub answer_seconds: f64,
}

/// What a workload needs. Cores, attempts and megabits are those while all lines send at their full campaign rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Messages a second if the recipients are spread evenly over the hours.
    pub messages_per_second: f64,
    /// Messages a second that all lines together can send for campaigns.
    pub lines_per_second: f64,
    /// The smallest number of lines that is enough.
    pub lines_min: u64,
    /// Hours a day that the given lines need for the recipients.
    pub hours: f64,
    /// Busy cores of all workers.
    pub worker_cores: f64,
    /// Workers of two cores: one more than needed, so that one may die.
    pub workers: u64,
    /// Lines of each worker.
    pub lines_per_worker: u64,
    /// Busy cores of all Redis masters.
    pub redis_cores: f64,
    /// Redis masters that share the work and the memory.
    pub redis_masters: u64,
    /// Cluster slots of each master; 0 if there are more masters than a cluster has slots.
    pub slots_per_master: u64,
    /// Memory of all masters together, in GiB.
    pub redis_gib: f64,
    /// Attempts in flight at once.
    pub in_flight: u64,
    /// Megabits a second to and from Meta.
    pub megabits_per_second: f64,
}

/// Returns what `load` needs.
pub fn needs(load: &Workload) -> Needs {
    let per_line = load.messages_per_second * (1.0 - load.headroom);
    let lines_per_second = per_line * f64::from(load.lines);
    let wanted = load.recipients as f64 / (load.hours * 3600.0);
    // A campaign sends as fast as its lines allow, so every resource is sized for the full rate and not for the mean.
    let statuses_per_second = lines_per_second * load.statuses;
    let calls_each = calls_each(per_line);
    let worker_cores = WORKER_US.cores(lines_per_second, calls_each, statuses_per_second);
    let workers = whole(worker_cores / (2.0 * BUSY_MAX)) + 1;
    let redis_cores = REDIS_US.cores(lines_per_second, calls_each, statuses_per_second);
    let recipient_bytes = RECIPIENT_BYTES + load.value_bytes * VALUES_COMPRESSED + MESSAGE_BYTES;
    let kept_bytes = recipient_bytes * load.retention_days + ID_BYTES * load.retention_days.min(ID_DAYS);
    // State bytes are never deleted: a year of them is counted.
    let redis_bytes = load.recipients as f64 * (kept_bytes + FORGOTTEN_BYTES * 365.0);
    let wire_bytes = lines_per_second * MESSAGE_WIRE_BYTES + statuses_per_second * STATUS_WIRE_BYTES;
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
        megabits_per_second: wire_bytes * 8.0 / 1e6,
    }
}

/// `n` rounded up, at least 1.
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
    fn headroom_reduces_the_rate_of_the_lines() {
        let needs = needs(&load(2_592_000, 1));
        assert_eq!((needs.messages_per_second, needs.lines_per_second, needs.hours), (72.0, 72.0, 10.0));
        assert_eq!((needs.lines_min, needs.in_flight), (1, 15));
    }

    #[test]
    fn the_largest_accepted_load_does_not_overflow() {
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
    fn a_message_of_a_fast_line_costs_less_than_on_a_slow_line() {
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
    fn ten_times_the_load_needs_ten_times_the_resources() {
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
