//! The command line for people, and with `--json` for programs.
//!
//! `campaign` and `line` talk to a running server by its HTTP API alone; `check`, `serve`, `sim`, `demo` and `load` run here.
//! What was asked for goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 usage
//! or configuration.
//!
//! If the process dies: a campaign goes on without it; an upload that was cut is continued by the same command again,
//! unless that was `submit --again`.
//! Never: touches Redis or Meta on behalf of a campaign; prints a secret.

pub mod arguments;
pub mod campaign;
pub mod check;
pub mod client;
pub mod failure;
pub mod line;
pub mod out;
pub mod progress;
pub mod size;
pub mod source;
pub mod sse;
pub mod submit;
pub mod table;
pub mod watch;
pub mod words;

use std::{error::Error as _, net::SocketAddr};

pub use arguments::Arguments;
pub use failure::Failure;

use self::{
    arguments::{CampaignCommand, Command, ConfigOptions, LineCommand, LoadCommand},
    client::{Action, Client},
};
use crate::{
    demo,
    load::{self, error::LoadError},
    ops::{
        config::{Config, LogConfig, LogFormat},
        logging,
    },
    serve::{self as service, ServeError},
    sim::{self, SimError},
};

/// Does what was asked for.
///
/// Errors: [`Failure`], which knows its exit code.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(options) => serve(&options).await,
        Command::Sim { config, listen } => simulate(&config, listen).await,
        Command::Demo { recipients, output } => demo::run(recipients, output.json).await,
        Command::Load { command: Some(command), .. } => load_tool(command).await,
        Command::Load { command: None, scenario, out, output } => {
            load::run(&scenario.unwrap_or_default(), out, output.json).await
        }
        Command::Campaign { server, command } => campaign(&server.client()?, command).await,
        Command::Line { server, command } => line(&server.client()?, command).await,
        Command::Check { config, output } => check::check(&config, output.json).await,
        Command::Size(options) => size::size(&options).map_err(|error| Failure::Failed(error.to_string())),
    }
}

async fn campaign(client: &Client, command: CampaignCommand) -> Result<(), Failure> {
    match command {
        CampaignCommand::Submit(options) => submit::submit(client, *options).await,
        CampaignCommand::List { state, limit, output } => {
            campaign::list(client, state, limit.into(), output.json).await
        }
        CampaignCommand::Show { id, output } => campaign::show(client, id, output.json).await,
        CampaignCommand::Watch { id, output } => watch::watch(client, id, output.json).await,
        CampaignCommand::Pause(campaigns) => campaign::change(client, &campaigns, Action::Pause).await,
        CampaignCommand::Resume(campaigns) => campaign::change(client, &campaigns, Action::Resume).await,
        CampaignCommand::Cancel(campaigns) => campaign::change(client, &campaigns, Action::Cancel).await,
        CampaignCommand::Delete(campaigns) => campaign::delete(client, &campaigns).await,
        CampaignCommand::Report { id, output } => campaign::report(client, id, output.as_deref()).await,
    }
}

async fn line(client: &Client, command: LineCommand) -> Result<(), Failure> {
    match command {
        LineCommand::List { output } => line::list(client, output.json).await,
        LineCommand::Show { id, output } => line::show(client, &id, output.json).await,
        LineCommand::Rate { id, messages_per_second, output, .. } => {
            line::rate(client, &id, messages_per_second, output.json).await
        }
        LineCommand::Pause(lines) => line::change(client, &lines, Action::Pause).await,
        LineCommand::Resume(lines) => line::change(client, &lines, Action::Resume).await,
    }
}

async fn load_tool(command: LoadCommand) -> Result<(), Failure> {
    match command {
        LoadCommand::Compare { a, b, output } => load::compare(&a, &b, output.json),
        LoadCommand::Meta(options) => Ok(load::meta::run(options).await.map_err(LoadError::Io)?),
        LoadCommand::Bare(options) => Ok(load::bare::run(options).await.map_err(LoadError::Io)?),
        LoadCommand::Baseline => Ok(load::baseline::run().await.map_err(LoadError::Io)?),
    }
}

async fn simulate(scenario: &str, listen: SocketAddr) -> Result<(), Failure> {
    let log = LogConfig { format: LogFormat::Auto, level: "info".into() };
    logging::init(&log).map_err(|error| Failure::Failed(error.to_string()))?;
    sim::run(scenario, &listen.to_string()).await.map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        match &error {
            SimError::Scenario(error) => Failure::Usage(error.to_string()),
            SimError::Read(..) => Failure::Usage(format!("{error}{cause}")),
            SimError::Listen(..) | SimError::Http(_) | SimError::Signal(_) => {
                Failure::Failed(format!("{error}{cause}"))
            }
        }
    })
}

async fn serve(options: &ConfigOptions) -> Result<(), Failure> {
    let config = Config::load(options.config.as_deref())?;
    config.check_roles(&options.roles)?;
    logging::init(&config.log).map_err(|error| Failure::Usage(error.to_string()))?;
    service::run(config, &options.roles).await.map_err(|error| match error {
        ServeError::Config(error) => Failure::Config(error),
        error => Failure::Failed(error.to_string()),
    })
}
