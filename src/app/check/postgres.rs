//! Checks PostgreSQL: that it answers, and its version. A private server is not started.

use super::Check;
use crate::{
    config::{Config, DatabaseUrl, Role},
    postgres::{Database, DatabaseAddress, VERSION_MIN, spawn},
};

/// Checks the database of `config`, if a role uses it.
pub(super) async fn check(config: &Config, roles: &[Role]) -> Vec<Check> {
    let needed = roles.iter().any(|role| role.uses_database());
    let Some(config) = config.database.as_ref().filter(|_| needed) else { return Vec::new() };
    let (name, url) = ("postgresql", &config.url);
    let options = match url {
        DatabaseUrl::Spawn(_) if spawn::is_installed() => {
            return vec![Check::ok(name, format!("{url}: PostgreSQL is installed"))];
        }
        DatabaseUrl::Spawn(_) => {
            let remedy = spawn::DatabaseSpawnError::Missing.to_string();
            return vec![Check::failed(name, format!("{url}: PostgreSQL is not installed"), remedy)];
        }
        DatabaseUrl::Server { options, .. } => (**options).clone(),
    };
    let database = Database::new(&DatabaseAddress { options, connections: 1, timeout: config.timeout });
    let check = match database.version().await {
        Ok(version) if version >= VERSION_MIN => Check::ok(name, format!("{url}: PostgreSQL {version}")),
        Ok(version) => {
            let remedy = format!("use PostgreSQL {VERSION_MIN} or newer");
            Check::failed(name, format!("{url}: PostgreSQL {version}"), remedy)
        }
        Err(error) => {
            let remedy = "correct database.url, or start PostgreSQL there";
            Check::failed(name, format!("{url}: {error}"), remedy)
        }
    };
    database.close().await;
    vec![check]
}
