//! `pregon agent …`: one API call for each page or agent, and one for each page of agents to find an email address.

use serde_json::json;

use super::{
    CommandError,
    arguments::{AgentArguments, AgentChangeArguments, AgentCommand, AgentName, NewAgentArguments},
    each::each,
    find, out,
    pages::all_pages,
    table, words,
};
use crate::{
    api_types::{AgentChangeBody, AgentView, InvitedAgent, NewAgentBody},
    client::{Client, Known},
    domain::Presence,
};

/// Runs one of the commands.
pub async fn run(client: &Client, command: AgentCommand) -> Result<(), CommandError> {
    match command {
        AgentCommand::List { removed, output } => list(client, removed, output.json).await,
        AgentCommand::Show { name, output } => {
            print(&client.agent(find::agent(client, &name).await?).await?, output.json)
        }
        AgentCommand::Create(new) => create(client, new).await,
        AgentCommand::Change(change) => amend(client, change).await,
        AgentCommand::Invite { name, output } => {
            print_invited(&client.invite_agent(find::agent(client, &name).await?).await?, output.json)
        }
        AgentCommand::Presence { presence, agents } => set_presence(client, presence, &agents).await,
        AgentCommand::Logout(agents) => {
            let call = async |name: &AgentName| client.end_sessions(find::agent(client, name).await?).await;
            each(&agents.names, call, |name, ()| done(name, "logged_out", "is logged out", agents.output.json)).await
        }
        AgentCommand::Remove(agents) => {
            let call = async |name: &AgentName| client.remove_agent(find::agent(client, name).await?).await;
            each(&agents.names, call, |name, ()| done(name, "removed", "is removed", agents.output.json)).await
        }
    }
}

async fn list(client: &Client, removed: bool, json: bool) -> Result<(), CommandError> {
    let agents = all_pages(async |cursor| client.agents(removed, cursor.as_deref()).await).await?;
    Ok(if json { out::json(&json!({ "agents": agents })) } else { out::line(&table::agents(&agents)) }?)
}

async fn create(client: &Client, new: NewAgentArguments) -> Result<(), CommandError> {
    let body = NewAgentBody {
        business: new.business.business.map(|business| business.to_string()),
        email: new.email,
        name: new.name,
        role: new.role.map(|role| role.name().to_owned()),
        capacity: new.capacity,
        groups: new.groups,
    };
    print_invited(&client.create_agent(&body).await?, new.output.json)
}

async fn amend(client: &Client, change: AgentChangeArguments) -> Result<(), CommandError> {
    let AgentChangeArguments { agent, values, output } = change;
    let body = AgentChangeBody {
        email: values.email,
        name: values.name,
        role: values.role.map(|role| role.name().to_owned()),
        capacity: values.capacity,
        groups: (!values.groups.is_empty()).then_some(values.groups),
    };
    print(&client.change_agent(find::agent(client, &agent).await?, &body).await?, output.json)
}

/// Sets the presence of agents, one by one. A failure does not affect the others.
async fn set_presence(client: &Client, presence: Presence, agents: &AgentArguments) -> Result<(), CommandError> {
    let call = async |name: &AgentName| client.set_presence(find::agent(client, name).await?, presence).await;
    each(&agents.names, call, |name, agent| match agents.output.json {
        true => out::json(&agent),
        false => out::line(&format!("{name} is {}", words::printable(&agent.presence))),
    })
    .await
}

fn done(name: &AgentName, what: &str, says: &str, json: bool) -> std::io::Result<()> {
    match json {
        true => out::json(&json!({ "agent": name.to_string(), what: true })),
        false => out::line(&format!("{name} {says}")),
    }
}

fn print(agent: &Known<AgentView>, json: bool) -> Result<(), CommandError> {
    Ok(if json { out::json(agent) } else { out::line(&table::agent(agent)) }?)
}

fn print_invited(invited: &Known<InvitedAgent>, json: bool) -> Result<(), CommandError> {
    if json {
        return Ok(out::json(invited)?);
    }
    out::line(&table::agent(&invited.agent))?;
    let (invitation, until) = (words::printable(&invited.invitation), words::time(invited.invitation_until));
    Ok(out::line(&format!("\nInvitation, until {until}, shown only now: {invitation}"))?)
}
