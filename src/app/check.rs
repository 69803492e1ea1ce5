//! `pregon check`: checks whether a worker could run with this configuration, without starting one.
//!
//! Never: sends a message, or changes data in Redis (it loads the scripts, as every start does).

mod media;
mod meta;
mod ports;
mod postgres;
mod redis;

use serde::Serialize;

use crate::{
    config::{Config, ConfigError, Role},
    domain::UnixMs,
    http::tls::Tls,
    telemetry::clock,
    terminal::{CommandError, arguments::ConfigOptions, out, table},
};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of what was checked.
    pub check: String,
    /// Whether it passed.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// How to fix it, if it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), ok: true, found: found.into(), remedy: None }
    }

    fn failed(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), ok: false, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// The output with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Check],
}

/// Checks everything that the roles of `options` need, and prints the results.
///
/// Errors: the configuration is invalid, in which case nothing else is checked; a check failed.
pub async fn check(options: &ConfigOptions, json: bool) -> Result<(), CommandError> {
    let config = match load(options) {
        Ok(config) => config,
        Err(error) => {
            if json {
                let remedy = "correct these keys, or the variables that set them";
                let checks = [Check::failed("configuration", error.problems.join("; "), remedy)];
                out::json(&Report { ok: false, checks: &checks })?;
            }
            return Err(error.into());
        }
    };
    let mut checks = vec![configuration(&config, options)];
    let lines = async {
        // Only a worker that sends calls Meta.
        if options.roles.contains(&Role::Dispatch) { meta::check(&config).await } else { Vec::new() }
    };
    checks.extend(certificate(&config, &options.roles));
    checks.extend(contact_hours(&config, clock::now()));
    let found = tokio::join!(
        redis::check(&config),
        postgres::check(&config, &options.roles),
        media::check(&config, &options.roles),
        lines,
        ports::check(&config, &options.roles)
    );
    checks.extend([found.0, found.1, found.2, found.3, found.4].concat());

    let failed = checks.iter().filter(|check| !check.ok).count();
    match json {
        true => out::json(&Report { ok: failed == 0, checks: &checks })?,
        false => out::line(&text(&checks))?,
    }
    match failed {
        0 => Ok(()),
        1 => Err(CommandError::Failed("1 check failed".into())),
        n => Err(CommandError::Failed(format!("{n} checks failed"))),
    }
}

fn load(options: &ConfigOptions) -> Result<Config, ConfigError> {
    let config = Config::load(options.config.as_deref())?;
    config.check_roles(&options.roles)?;
    Ok(config)
}

fn configuration(config: &Config, options: &ConfigOptions) -> Check {
    let mut found = vec![match &options.config {
        Some(path) => path.display().to_string(),
        None => "defaults and environment".into(),
    }];
    let including = config.businesses.iter().filter(|business| !business.include.is_empty()).count();
    let including = if including > 0 { format!(", businesses with include: {including}") } else { String::new() };
    found.push(format!("lines: {}, WABAs: {}{including}", config.lines.len(), config.wabas.len()));
    if options.roles.contains(&Role::Api) {
        let names: Vec<_> = config.http.api_keys.iter().map(|key| key.name.as_str()).collect();
        found.push(format!("API keys: {}", names.join(", ")));
    }
    if options.roles.contains(&Role::Webhook) {
        found.push("webhook secrets are set".into());
    }
    Check::ok("configuration", found.join("; "))
}

/// Checks the certificate, if the roles serve HTTP and `http.tls` is set.
fn certificate(config: &Config, roles: &[Role]) -> Option<Check> {
    let files = config.http.tls.as_ref().filter(|_| roles.contains(&Role::Api) || roles.contains(&Role::Webhook))?;
    let found = files.certificate.display().to_string();
    Some(match Tls::load(files) {
        Ok(_) => Check::ok("http.tls", found),
        Err(error) => Check::failed(
            "http.tls",
            error.to_string(),
            "set PEM files of a certificate and of its key that this process can read",
        ),
    })
}

/// Reports the number of contact hours, and which of their calendars end.
fn contact_hours(config: &Config, now: UnixMs) -> Option<Check> {
    let hours = &config.contact_hours;
    let warnings = hours.outdated(now).into_iter().map(|outdated| format!("\nwarning: {outdated}"));
    let noun = if hours.len() == 1 { "entry" } else { "entries" };
    let found = format!("{} {noun}{}", hours.len(), warnings.collect::<String>());
    (!hours.is_empty()).then(|| Check::ok("contact_hours", found))
}

fn text(checks: &[Check]) -> String {
    let row = |check: &Check| {
        let found = match &check.remedy {
            Some(remedy) => format!("{}\n→ {remedy}", check.found),
            None => check.found.clone(),
        };
        [check.check.clone(), if check.ok { "ok" } else { "failed" }.to_owned(), found]
    };
    table::table(["check", "", "found"], checks.iter().map(row))
}
