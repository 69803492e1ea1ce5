//! The arguments of the command line, a file for each group of commands. The comments of these files are the program's
//! help.
#![expect(missing_docs, reason = "a shared group of options has its help on its own type")]

mod agent;
mod campaign;
mod operation;
mod people;
mod process;
mod values;

use std::{convert::Infallible, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use reqwest::Url;

pub use self::{
    agent::{AgentArguments, AgentChangeArguments, AgentCommand, GroupArguments, GroupCommand, NewAgentArguments},
    campaign::{
        CampaignArguments, CampaignCommand, ChangeOptions, ChangedValues, RecipientsOptions, RetryOptions,
        SubmitOptions, TestOptions, UploadOptions,
    },
    operation::{
        AllArguments, BusinessCommand, DeadLetterArguments, EventCommand, HoldArguments, HoldCommand, JobCommand,
        LineArguments, LineCommand, TailOptions, TemplateArguments, TemplateCommand, TopOptions, WorkerCommand,
    },
    people::{AddArguments, BusinessArgument, ImportOptions, PersonCommand, PhoneArguments, SuppressionCommand},
    process::{
        ConfigOptions, DatabaseCommand, DatabaseOptions, DemoOptions, ServeOptions, SetupOptions, SimOptions,
        SizeOptions,
    },
    values::{AgentName, CampaignName, Setting, TemplateId, number},
};
use crate::{
    client::{Client, ClientError},
    domain::Secret,
};

/// Below the list of commands. `tests/promises/cli/helping.rs` runs them.
const EXAMPLES: &str = "\
Examples:
  pregon demo --recipients 1e3
  pregon check --config pregon.toml
  pregon serve --config pregon.toml
  pregon campaign submit customers.csv --template order_update/es_AR --line 3001";

/// Sends WhatsApp campaigns: nothing lost, nothing twice, counted exactly.
#[derive(Parser, Debug)]
#[command(name = "pregon", version, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a worker: the API, Meta's webhooks and sending
    Serve(ServeOptions),
    /// Check the configuration, Redis, Meta and the ports
    Check {
        #[command(flatten)]
        config: ConfigOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Write a configuration for your lines, and send a first message
    Setup(SetupOptions),
    /// Create and migrate the tables of the chats in PostgreSQL
    Database {
        #[command(subcommand)]
        command: DatabaseCommand,
    },
    /// Send a campaign to a simulated Meta, and check the result
    Demo(DemoOptions),
    /// Run the simulator of Meta's Graph API
    Sim(SimOptions),
    /// Estimate what a workload needs: lines, workers, Redis, network
    Size(SizeOptions),
    /// Submit, watch and control campaigns
    Campaign {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: CampaignCommand,
    },
    /// Show lines and campaigns on a live screen
    Top(TopOptions),
    /// Follow the event feed
    Event {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: EventCommand,
    },
    /// Show lines; set their rate, pause and resume them
    Line {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: LineCommand,
    },
    /// Show what Meta's errors have stopped (holds), and lift holds
    Hold {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: HoldCommand,
    },
    /// Show templates, read them from Meta, lift their pauses
    Template {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: TemplateCommand,
    },
    /// Show messaging limits of businesses, and what Meta has of them
    Business {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: BusinessCommand,
    },
    /// Show the running processes
    Worker {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: WorkerCommand,
    },
    /// Show, retry and delete jobs that failed (dead letters)
    Job {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Manage suppressions: people who want no messages
    Suppression {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: SuppressionCommand,
    },
    /// Manage agents: people who answer chats
    Agent {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Manage the groups of agents
    Group {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Forget people: delete their data
    Person {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: PersonCommand,
    },
    /// Pause all sending
    Pause(AllArguments),
    /// Resume all sending; paused lines and campaigns stay paused
    Resume(AllArguments),
    /// Print the script that completes this command line in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command
    #[command(hide = true)]
    Man {
        /// The folder for them
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Exit with 0 if a process is healthy: for container engines
    #[command(hide = true)]
    Health {
        /// The URL of its health check
        #[arg(env = "PREGON_HEALTH_URL", default_value = "http://127.0.0.1:9464/healthz")]
        url: Url,
    },
}

/// The format of the output.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The server to call.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerArguments {
    /// The server's address
    #[arg(long, global = true, value_name = "URL", env = "PREGON_SERVER", default_value = "http://127.0.0.1:8080")]
    server: Url,
    /// The API key; PREGON_API_KEY keeps it out of the process list
    #[arg(long, global = true, value_name = "KEY", env = "PREGON_API_KEY", hide_env_values = true, value_parser = secret)]
    api_key: Option<Secret>,
    /// Trust only the CA certificates in this PEM file, for a server with a private CA
    #[arg(long, global = true, value_name = "FILE", env = "PREGON_CA")]
    ca: Option<PathBuf>,
}

impl ServerArguments {
    /// A client of the server.
    ///
    /// Errors: [`ClientError::Unusable`].
    pub fn client(self) -> Result<Client, ClientError> {
        let key = self.api_key.filter(|key| !key.expose().is_empty());
        if let Some(flaw) = key.as_ref().and_then(Secret::flaw) {
            return Err(ClientError::Unusable(format!("the API key (PREGON_API_KEY or --api-key) {flaw}")));
        }
        Client::new(self.server, key, self.ca.as_deref())
    }
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_api_key_never_appears_in_help_debug_output_or_errors() {
        let arguments = Arguments::parse_from(["pregon", "line", "list", "--api-key", "s3cret"]);
        assert!(!format!("{arguments:?}").contains("s3cret"));
        let server = ServerArguments {
            server: "http://127.0.0.1:8080".parse().expect("a URL"),
            api_key: Some(Secret::new("s3cret ")),
            ca: None,
        };
        let Err(error) = server.client() else { panic!("the key ends with a blank") };
        let error = error.to_string();
        assert!(error.starts_with("the API key (PREGON_API_KEY or --api-key) contains a blank"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        let mut command = Arguments::command();
        let line = command.find_subcommand_mut("line").expect("the command");
        assert!(line.render_long_help().to_string().contains("[env: PREGON_API_KEY]"));
    }

    #[test]
    fn the_help_fits_on_a_screen() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.lines().count() <= 40, "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
