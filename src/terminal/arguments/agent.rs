//! The arguments of `pregon agent` and `pregon group`.

use clap::{Args, Subcommand};

use super::{
    BusinessArgument, Output,
    values::{AgentName, agent_name, agent_role, number, presence},
};
use crate::domain::{AgentRole, Presence, agent::CAPACITY_MAX};

/// `pregon agent …`
#[derive(Subcommand, Debug)]
pub enum AgentCommand {
    /// List agents, in the order of their creation
    List {
        /// Those who were removed too
        #[arg(long)]
        removed: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show an agent
    Show {
        /// The agent: the id, or the email address
        #[arg(value_name = "AGENT", value_parser = agent_name)]
        name: AgentName,
        #[command(flatten)]
        output: Output,
    },
    /// Create an agent, and print the invitation with which the agent sets a password
    Create(NewAgentArguments),
    /// Change values of an agent; those without an option stay as they are
    Change(AgentChangeArguments),
    /// Invite an agent again, who then sets a new password
    Invite {
        /// The agent: the id, or the email address
        #[arg(value_name = "AGENT", value_parser = agent_name)]
        name: AgentName,
        #[command(flatten)]
        output: Output,
    },
    /// Say whether agents are there. The chats of those who are offline return to the queue
    Presence {
        /// available (gets chats), away (keeps the chats, and gets no more) or offline
        #[arg(value_name = "PRESENCE", value_parser = presence())]
        presence: Presence,
        #[command(flatten)]
        agents: AgentArguments,
    },
    /// End all sessions of agents
    Logout(AgentArguments),
    /// Remove agents: their sessions end, and their chats return to the queue
    Remove(AgentArguments),
}

/// One or more agents.
#[derive(Args, Debug)]
pub struct AgentArguments {
    /// The agents: their ids, or email addresses
    #[arg(required = true, value_name = "AGENT", value_parser = agent_name)]
    pub names: Vec<AgentName>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon agent create …`
#[derive(Args, Debug)]
pub struct NewAgentArguments {
    /// The email address, with which the agent logs in
    pub email: String,
    /// The name, as contacts and colleagues see it
    #[arg(long)]
    pub name: String,
    #[command(flatten)]
    pub business: BusinessArgument,
    /// What the agent may do: agent, manager or admin [server's default: agent]
    #[arg(long, value_parser = agent_role())]
    pub role: Option<AgentRole>,
    /// How many chats the agent is given at once, 0 to 1000 [server's default: 5]
    #[arg(long, value_name = "N", value_parser = number(0..=CAPACITY_MAX))]
    pub capacity: Option<u32>,
    /// A group of the agent; repeat the option for more
    #[arg(long = "group", value_name = "ID")]
    pub groups: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `pregon agent change …`
#[derive(Args, Debug)]
pub struct AgentChangeArguments {
    /// The agent: the id, or the email address
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub agent: AgentName,
    #[command(flatten)]
    pub values: AgentValues,
    #[command(flatten)]
    pub output: Output,
}

/// What `pregon agent change` changes.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct AgentValues {
    /// The email address
    #[arg(long)]
    pub email: Option<String>,
    /// The name
    #[arg(long)]
    pub name: Option<String>,
    /// What the agent may do: agent, manager or admin
    #[arg(long, value_parser = agent_role())]
    pub role: Option<AgentRole>,
    /// How many chats the agent is given at once, 0 to 1000
    #[arg(long, value_name = "N", value_parser = number(0..=CAPACITY_MAX))]
    pub capacity: Option<u32>,
    /// A group of the agent, in place of those until now; repeat the option for more
    #[arg(long = "group", value_name = "ID")]
    pub groups: Vec<String>,
}

/// `pregon group …`
#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// List the groups
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Create a group
    Create(GroupArguments),
    /// Rename a group
    Rename(GroupArguments),
    /// Remove a group that has no chats
    Remove {
        /// The id
        id: String,
        #[command(flatten)]
        business: BusinessArgument,
        #[command(flatten)]
        output: Output,
    },
}

/// A group and its name.
#[derive(Args, Debug)]
pub struct GroupArguments {
    /// The id, such as sales
    pub id: String,
    /// The name, such as Ventas
    pub name: String,
    #[command(flatten)]
    pub business: BusinessArgument,
    #[command(flatten)]
    pub output: Output,
}
