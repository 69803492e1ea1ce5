//! The program: builds each command from the other modules. May use every module; no other module uses this one.

pub mod check;
pub mod database;
pub mod demo;
pub mod serve;
mod setup;
pub mod shutdown;
pub mod size;

use std::error::Error as _;

use reqwest::Url;

use self::{serve::ServeError, shutdown::Signals};
use crate::{
    client::{Client, ControlAction},
    config::Config,
    sim::{self, SimError},
    telemetry::logging::{self, LogConfig, LogFormat},
    terminal::{
        CommandError, agent,
        arguments::{
            AllArguments, BusinessCommand, CampaignCommand, Command, ConfigOptions, DemoOptions, EventCommand,
            HoldCommand, JobCommand, LineCommand, PersonCommand, ServeOptions, SimOptions, TemplateCommand, TopOptions,
            WorkerCommand,
        },
        business, campaign, group, health, hold, install, job, line, pause, person, submit, suppression, tail,
        template, top, worker,
    },
};

/// Runs one command.
///
/// Errors: [`CommandError`], which has the exit code.
pub async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Serve(options) => run_service(options).await,
        Command::Setup(options) => Box::pin(setup::run(options)).await,
        Command::Sim(options) => simulate(&options).await,
        Command::Demo(DemoOptions { recipients, output }) => demo::run(recipients, output.json).await,
        Command::Campaign { server, command } => run_campaign(&server.client()?, command).await,
        Command::Event { server, command } => run_event(&server.client()?, command).await,
        Command::Business { server, command } => match command {
            BusinessCommand::List { output } => business::list(&server.client()?, output.json).await,
            BusinessCommand::Discover { output } => business::discover(&server.client()?, output.json).await,
        },
        Command::Agent { server, command } => agent::run(&server.client()?, command).await,
        Command::Group { server, command } => group::run(&server.client()?, command).await,
        Command::Hold { server, command } => run_hold(&server.client()?, command).await,
        Command::Job { server, command } => run_job(&server.client()?, command).await,
        Command::Line { server, command } => run_line(&server.client()?, command).await,
        Command::Suppression { server, command } => suppression::run(&server.client()?, command).await,
        Command::Person { server, command: PersonCommand::Forget { phones, output } } => {
            person::forget(&server.client()?, &phones, output.json).await
        }
        Command::Template { server, command } => run_template(&server.client()?, command).await,
        Command::Worker { server, command: WorkerCommand::List { output } } => {
            worker::list(&server.client()?, output.json).await
        }
        Command::Top(TopOptions { server }) => top::top(&server.client()?, stop_signal()?).await,
        Command::Pause(all) => change_all(all, ControlAction::Pause).await,
        Command::Resume(all) => change_all(all, ControlAction::Resume).await,
        Command::Check { config, output } => check::check(&config, output.json).await,
        Command::Database { command } => database::run(command).await,
        Command::Completions { shell } => install::completions(shell),
        Command::Man { folder } => install::man(&folder),
        Command::Health { url } => health::check(url).await,
        Command::Size(options) => size::size(&options).map_err(|error| CommandError::Failed(error.to_string())),
    }
}

async fn run_campaign(client: &Client, command: CampaignCommand) -> Result<(), CommandError> {
    match command {
        CampaignCommand::Submit(options) => submit::submit(client, *options).await,
        CampaignCommand::List { state, limit, output } => {
            campaign::list(client, state, limit.into(), output.json).await
        }
        CampaignCommand::Upload(options) => campaign::upload(client, options).await,
        CampaignCommand::Launch(campaigns) => campaign::change(client, &campaigns, ControlAction::Launch).await,
        CampaignCommand::Show { id, output } => campaign::show(client, &id, output.json).await,
        CampaignCommand::Watch { id, output } => campaign::watch(client, &id, output.json).await,
        CampaignCommand::Preflight { id, output } => campaign::preflight(client, &id, output.json).await,
        CampaignCommand::Test(options) => campaign::test(client, options).await,
        CampaignCommand::Change(options) => campaign::amend(client, &options).await,
        CampaignCommand::Pause(campaigns) => campaign::change(client, &campaigns, ControlAction::Pause).await,
        CampaignCommand::Resume(campaigns) => campaign::change(client, &campaigns, ControlAction::Resume).await,
        CampaignCommand::Cancel(campaigns) => campaign::change(client, &campaigns, ControlAction::Cancel).await,
        CampaignCommand::Retry(options) => campaign::retry(client, options).await,
        CampaignCommand::Delete(campaigns) => campaign::delete(client, &campaigns).await,
        CampaignCommand::Recipients(options) => campaign::recipients(client, options).await,
        CampaignCommand::Report { id, output } => campaign::report(client, &id, output.as_deref()).await,
    }
}

async fn run_event(client: &Client, command: EventCommand) -> Result<(), CommandError> {
    let EventCommand::Tail(options) = command;
    tail::tail(client, options, stop_signal()?).await
}

/// Waits for SIGTERM or SIGINT, which no longer end the process by themselves.
fn stop_signal() -> Result<impl Future<Output = ()>, CommandError> {
    let mut signals = Signals::of_process()
        .map_err(|error| CommandError::Failed(format!("cannot install a signal handler: {error}")))?;
    Ok(async move {
        let _signal = signals.next().await;
    })
}

async fn run_template(client: &Client, command: TemplateCommand) -> Result<(), CommandError> {
    match command {
        TemplateCommand::List { output } => template::list(client, output.json).await,
        TemplateCommand::Show { id, output } => template::show(client, &id, output.json).await,
        TemplateCommand::Sync { output } => template::sync(client, output.json).await,
        TemplateCommand::Unpause(templates) => template::unpause(client, &templates).await,
    }
}

async fn run_hold(client: &Client, command: HoldCommand) -> Result<(), CommandError> {
    match command {
        HoldCommand::List { output } => hold::list(client, output.json).await,
        HoldCommand::Lift(holds) => hold::lift(client, &holds).await,
    }
}

async fn run_job(client: &Client, command: JobCommand) -> Result<(), CommandError> {
    match command {
        JobCommand::List { limit, output } => job::list(client, limit.into(), output.json).await,
        JobCommand::Show { id, output } => job::show(client, id, output.json).await,
        JobCommand::Retry(letters) => job::retry(client, &letters).await,
        JobCommand::Delete(letters) => job::delete(client, &letters).await,
    }
}

async fn run_line(client: &Client, command: LineCommand) -> Result<(), CommandError> {
    match command {
        LineCommand::List { output } => line::list(client, output.json).await,
        LineCommand::Show { id, output } => line::show(client, &id, output.json).await,
        LineCommand::Rate { id, messages_per_second, output, .. } => {
            line::rate(client, &id, messages_per_second, output.json).await
        }
        LineCommand::Pause(lines) => line::change(client, &lines, ControlAction::Pause).await,
        LineCommand::Resume(lines) => line::change(client, &lines, ControlAction::Resume).await,
    }
}

async fn change_all(all: AllArguments, action: ControlAction) -> Result<(), CommandError> {
    let AllArguments { server, business, output } = all;
    pause::change(&server.client()?, business.as_ref(), action, output.json).await
}

async fn simulate(SimOptions { config, listen, webhook }: &SimOptions) -> Result<(), CommandError> {
    let log = LogConfig { format: LogFormat::Auto, level: "info".into() };
    logging::init(&log).map_err(|error| CommandError::Failed(error.to_string()))?;
    sim::run(config, webhook.as_ref().map(Url::as_str), &listen.to_string()).await.map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        match &error {
            SimError::Scenario(error) => CommandError::Usage(error.to_string()),
            SimError::Read(..) => CommandError::Usage(format!("{error}{cause}")),
            SimError::Listen(..) | SimError::Http(_) | SimError::Signal(_) => {
                CommandError::Failed(format!("{error}{cause}"))
            }
        }
    })
}

async fn run_service(options: ServeOptions) -> Result<(), CommandError> {
    let ServeOptions { config: ConfigOptions { config, roles }, ready_file } = options;
    let config = Config::load(config.as_deref())?;
    config.check_roles(&roles)?;
    logging::init(&config.log).map_err(|error| CommandError::Usage(error.to_string()))?;
    serve::run(config, &roles, ready_file).await.map_err(|error| match error {
        ServeError::Config(error) => CommandError::Config(error),
        error => CommandError::Failed(error.to_string()),
    })
}
