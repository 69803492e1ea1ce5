//! `pregon group …`: one API call for each.

use serde_json::json;

use super::{
    CommandError,
    arguments::{GroupArguments, GroupCommand},
    out,
    pages::all_pages,
    table,
};
use crate::{
    api_types::{GroupView, NewGroup},
    client::{Client, Known},
};

/// Runs one of the commands.
pub async fn run(client: &Client, command: GroupCommand) -> Result<(), CommandError> {
    match command {
        GroupCommand::List { output } => {
            let groups = all_pages(async |cursor| client.groups(cursor.as_deref()).await).await?;
            let list = |groups: &[Known<GroupView>]| out::line(&table::groups(groups));
            Ok(if output.json { out::json(&json!({ "groups": groups })) } else { list(&groups) }?)
        }
        GroupCommand::Create(GroupArguments { id, name, business, output }) => {
            let new = NewGroup { business: business.business.map(|business| business.to_string()), id, name };
            print(&client.create_group(&new).await?, output.json)
        }
        GroupCommand::Rename(GroupArguments { id, name, business, output }) => {
            print(&client.rename_group(business.business.as_ref(), &id, &name).await?, output.json)
        }
        GroupCommand::Remove { id, business, output } => {
            client.remove_group(business.business.as_ref(), &id).await?;
            Ok(match output.json {
                true => out::json(&json!({ "group": id, "removed": true })),
                false => out::line(&format!("group {id} is removed")),
            }?)
        }
    }
}

fn print(group: &Known<GroupView>, json: bool) -> Result<(), CommandError> {
    Ok(if json { out::json(group) } else { out::line(&table::groups(std::slice::from_ref(group))) }?)
}
