//! The arguments of the commands about what an installation has: lines, templates, holds, workers, events, dead
//! letters.

use clap::{Args, Subcommand};

use super::{
    Output, ServerArguments,
    values::{CampaignName, TemplateId, business_id, entry_id, event_type, line_id, line_rate, number, template_id},
};
use crate::domain::{BusinessId, EntryId, EventType, LineId};

/// `pregon pause …` and `pregon resume …`
#[derive(Args, Debug)]
pub struct AllArguments {
    #[command(flatten)]
    pub server: ServerArguments,
    /// Only the lines of this business
    #[arg(long, value_name = "ID", value_parser = business_id)]
    pub business: Option<BusinessId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon event …`
#[derive(Subcommand, Debug)]
pub enum EventCommand {
    /// Print events as they happen
    Tail(TailOptions),
}

/// `pregon event tail …`
#[derive(Args, Debug)]
pub struct TailOptions {
    /// Only events of this type, such as recipient.read; repeat the option for more types
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type())]
    pub types: Vec<EventType>,
    /// Only events of this campaign: its id, or your external id
    #[arg(long, value_name = "ID")]
    pub campaign: Option<CampaignName>,
    /// Start after this position, which the command prints when Ctrl-C ends it; 0 starts with the oldest event that is
    /// kept [default: only new events]
    #[arg(long, value_name = "POSITION")]
    pub after: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon job …`
#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// List the dead letters, newest first
    List {
        /// The maximum number of dead letters
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1..=u16::MAX))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show a dead letter with its whole job
    Show {
        /// The dead letter
        #[arg(value_parser = entry_id)]
        id: EntryId,
        #[command(flatten)]
        output: Output,
    },
    /// Retry the jobs of dead letters. A job that fails again becomes a new dead letter
    Retry(DeadLetterArguments),
    /// Delete dead letters
    Delete(DeadLetterArguments),
}

/// One or more dead letters.
#[derive(Args, Debug)]
pub struct DeadLetterArguments {
    /// The dead letters
    #[arg(required = true, value_name = "ID", value_parser = entry_id)]
    pub ids: Vec<EntryId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon business …`
#[derive(Subcommand, Debug)]
pub enum BusinessCommand {
    /// List the businesses of the configured lines
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show the WABAs and lines that the businesses have at Meta, and how the configuration differs
    Discover {
        #[command(flatten)]
        output: Output,
    },
}

/// `pregon hold …`
#[derive(Subcommand, Debug)]
pub enum HoldCommand {
    /// List holds: what each stops, why, and what can lift it
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Lift holds: sending resumes at once. If the cause persists, the next message brings the hold back
    Lift(HoldArguments),
}

/// One or more holds.
#[derive(Args, Debug)]
pub struct HoldArguments {
    /// The ids of the holds, such as line:3001
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon line …`
#[derive(Subcommand, Debug)]
pub enum LineCommand {
    /// List the lines
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show a line
    Show {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        #[command(flatten)]
        output: Output,
    },
    /// Set the rate of a line, or reset it with --default
    Rate {
        /// The line's phone_number_id
        #[arg(value_parser = line_id)]
        id: LineId,
        /// Messages per second, 0.01 to 1000000
        #[arg(value_name = "N", required_unless_present = "default", value_parser = line_rate)]
        messages_per_second: Option<f64>,
        /// Reset to the configured rate, or without one to what Meta allows
        #[arg(long, conflicts_with = "messages_per_second")]
        default: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Pause lines: send nothing more on them until they are resumed
    Pause(LineArguments),
    /// Resume paused lines
    Resume(LineArguments),
}

/// One or more lines.
#[derive(Args, Debug)]
pub struct LineArguments {
    /// The lines' phone_number_ids
    #[arg(required = true, value_name = "ID", value_parser = line_id)]
    pub ids: Vec<LineId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon template …`
#[derive(Subcommand, Debug)]
pub enum TemplateCommand {
    /// List the templates, as Meta last returned them
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show a template: its text, its status, and the columns of a file with recipients
    Show {
        /// The template, such as 2001/order_update/es_AR
        #[arg(value_name = "WABA/NAME/LANG", value_parser = template_id)]
        id: TemplateId,
        #[command(flatten)]
        output: Output,
    },
    /// Read the templates from Meta now
    Sync {
        #[command(flatten)]
        output: Output,
    },
    /// Ask Meta to lift the pause of templates, and resume sending them
    Unpause(TemplateArguments),
}

/// One or more templates.
#[derive(Args, Debug)]
pub struct TemplateArguments {
    /// The templates, such as 2001/order_update/es_AR; `pregon hold list` shows those that are held
    #[arg(required = true, value_name = "WABA/NAME/LANG", value_parser = template_id)]
    pub ids: Vec<TemplateId>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon worker …`
#[derive(Subcommand, Debug)]
pub enum WorkerCommand {
    /// List the running processes with their version, roles, lines and start time
    List {
        #[command(flatten)]
        output: Output,
    },
}

/// `pregon top …`
#[derive(Args, Debug)]
pub struct TopOptions {
    #[command(flatten)]
    pub server: ServerArguments,
}
