//! `pregon size`: prints what a workload needs, as a table or as JSON.

pub mod needs;

use std::io;

use self::needs::Workload;
use crate::terminal::{arguments::SizeOptions, out, table, words};

/// Prints what the workload of `options` needs.
///
/// Errors: standard output is closed.
pub fn size(options: &SizeOptions) -> io::Result<()> {
    let load = Workload {
        recipients: options.recipients,
        lines: options.lines,
        messages_per_second: options.rate,
        headroom: options.headroom,
        hours: options.hours,
        value_bytes: f64::from(options.value_bytes),
        statuses: options.statuses,
        retention_days: f64::from(options.retention_days),
        answer_seconds: f64::from(options.answer_ms) / 1000.0,
    };
    let needs = needs::needs(&load);
    if options.output.json {
        return out::json(&needs);
    }
    let masters = match needs.slots_per_master {
        0 => format!("{}: more than the 16384 that one cluster can have", needs.redis_masters),
        slots => format!("{}, with {slots} slots each", needs.redis_masters),
    };
    let (lines, days) =
        (words::counted(options.lines.into(), "line"), words::counted(options.retention_days.into(), "day"));
    out::line(&table::fields([
        ("messages a second", format!("{:.0}, spread over {} h", needs.messages_per_second, load.hours)),
        ("lines", format!("at least {}; {} would send for {:.1} h", needs.lines_min, lines, needs.hours)),
        ("workers", format!("{} of 2 cores, of which one may die", needs.workers)),
        ("cores", format!("{:.2} busy while all lines send", needs.worker_cores)),
        ("lines per worker", needs.lines_per_worker.to_string()),
        ("Redis masters", masters),
        ("Redis cores", format!("{:.2} busy while all lines send", needs.redis_cores)),
        ("Redis memory", format!("{:.1} GiB: {days} of recipients, a year of states", needs.redis_gib)),
        ("attempts in flight", needs.in_flight.to_string()),
        ("network", format!("{:.1} Mbit/s to and from Meta", needs.megabits_per_second)),
    ]))
}
