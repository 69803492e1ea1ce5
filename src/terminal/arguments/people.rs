//! The arguments of `pregon suppression` and `pregon person`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Output,
    values::{business_id, number, phone, suppression_reason, suppression_scope},
};
use crate::domain::{BusinessId, Phone, SuppressionReason, SuppressionScope};

/// `pregon suppression …`
#[derive(Subcommand, Debug)]
pub enum SuppressionCommand {
    /// Suppress people: campaigns of the business skip them, running ones too
    Add(AddArguments),
    /// End suppressions: the people get messages from the business again
    Remove(PhoneArguments),
    /// Show the suppression of a person
    Show {
        /// The phone number, such as +5491155550001
        #[arg(value_parser = phone)]
        phone: Phone,
        #[command(flatten)]
        business: BusinessArgument,
        #[command(flatten)]
        output: Output,
    },
    /// List suppressions, in no particular order
    List {
        #[command(flatten)]
        business: BusinessArgument,
        /// The maximum number of suppressions
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1..=u16::MAX))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Suppress the people in a file of any length. Importing it again changes nothing
    Import(ImportOptions),
    /// Write all suppressions of a business as CSV, which `import` can read
    Export {
        #[command(flatten)]
        business: BusinessArgument,
        /// Write to this file instead of standard output; the file appears once it is complete
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The business of a command.
#[derive(Args, Clone, Debug)]
pub struct BusinessArgument {
    /// The business; optional if your API key sees only one
    #[arg(long, value_name = "ID", value_parser = business_id)]
    pub business: Option<BusinessId>,
}

/// `pregon suppression add …`
#[derive(Args, Debug)]
pub struct AddArguments {
    /// The phone numbers, such as +5491155550001
    #[arg(required = true, value_name = "PHONE", value_parser = phone)]
    pub phones: Vec<Phone>,
    #[command(flatten)]
    pub business: BusinessArgument,
    /// The messages to stop: marketing, or all
    #[arg(long, value_parser = suppression_scope())]
    pub scope: SuppressionScope,
    /// Why [server's default: opt_out]
    #[arg(long, value_parser = suppression_reason())]
    pub reason: Option<SuppressionReason>,
    #[command(flatten)]
    pub output: Output,
}

/// One or more people.
#[derive(Args, Debug)]
pub struct PhoneArguments {
    /// The phone numbers, such as +5491155550001
    #[arg(required = true, value_name = "PHONE", value_parser = phone)]
    pub phones: Vec<Phone>,
    #[command(flatten)]
    pub business: BusinessArgument,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon person …`
#[derive(Subcommand, Debug)]
pub enum PersonCommand {
    /// Delete the numbers, values and messages of people everywhere; statistics and suppressions stay
    Forget {
        /// The phone numbers, such as +5491155550001
        #[arg(required = true, value_name = "PHONE", value_parser = phone)]
        phones: Vec<Phone>,
        #[command(flatten)]
        output: Output,
    },
}

/// `pregon suppression import …`
#[derive(Args, Debug)]
pub struct ImportOptions {
    /// The list: FILE.csv (a header with `phone` and optionally `scope`, `reason` and `since`) or FILE.ndjson (an
    /// object with these fields per line), optionally compressed (FILE.csv.gz, .zst, .br), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub business: BusinessArgument,
    /// The messages to stop, for rows without a scope: marketing, or all
    #[arg(long, value_parser = suppression_scope())]
    pub scope: Option<SuppressionScope>,
    /// Why, for rows without a reason [server's default: opt_out]
    #[arg(long, value_parser = suppression_reason())]
    pub reason: Option<SuppressionReason>,
    /// CSV columns to ignore, such as email,city
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// Exit with 1 if more rows than this were rejected: the person in a rejected row still gets messages
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(0..=u64::MAX))]
    pub max_rejected: u64,
    #[command(flatten)]
    pub output: Output,
}
