//! `pregon setup`: leads from an access token to a configuration and a first message.
//!
//! Order: read what the business has at Meta; let the person choose lines; write the configuration and the secrets;
//! subscribe the app to the WABAs; send one message.
//! If the process dies: each step is complete or was not begun, except that the message may have been sent. The command
//! can be run again with `--force`, which keeps the API key and the verify token.
//! Never: changes anything at Meta, or sends, without a yes; registers or verifies a number; overwrites a configuration
//! without `--force`; writes a secret into the configuration.

mod files;

use std::{env, time::Instant};

use self::files::{NewFiles, SecretSource};
use crate::{
    api_types::{DiscoveredBusiness, DiscoveredLine, DiscoveredWaba},
    config::{Config, GraphConfig},
    discovery,
    domain::{BusinessId, Form, Outcome, Phone, Secret, Template, WabaId},
    graph::{Edge, GraphClient, GraphClientConfig, LineSender, Permit, SendRequest, Subscription, body::BodyPlan},
    terminal::{CommandError, arguments::SetupOptions, ask, out, table, words},
};

/// The callback data of the first message. It is not that of any campaign.
const CALLBACK_DATA: &str = "pregon-setup";

/// The variables from which secrets are taken. The configuration then names the variable.
const TOKEN: &str = "PREGON_TOKEN";
const APP_SECRET: &str = "PREGON_APP_SECRET";
const VERIFY_TOKEN: &str = "PREGON_VERIFY_TOKEN";
const API_KEY: &str = "PREGON_API_KEY";

/// Leads through the setup.
///
/// Errors: the file exists; Meta does not answer, or refuses; nothing was chosen; an app was not subscribed, or the
/// message was not accepted, after the configuration was written.
pub(super) async fn run(options: SetupOptions) -> Result<(), CommandError> {
    let files = NewFiles::at(&options.config, options.force)?;
    let graph = Config::load(None)?.graph;
    let client = GraphClient::new(graph.client()).map_err(|error| CommandError::Usage(error.to_string()))?;
    let token = given_or_asked(TOKEN, "Access token of a system user")?;
    let app_secret = given_or_asked(APP_SECRET, "App secret (app dashboard, App settings, Basic)")?;
    let business = match options.business {
        Some(id) => id,
        None => BusinessId::from(ask::line("Id of the business portfolio")?.as_str()),
    };

    let found = discovery::read_business(&client, &business, &token.secret).await;
    let chosen = choose(&found, &options.lines)?;
    let secrets = [
        ("token", token.source(TOKEN)),
        ("app-secret", app_secret.source(APP_SECRET)),
        ("verify-token", generated(VERIFY_TOKEN)),
        ("api-key", generated(API_KEY)),
    ];
    let text = |names: &[String; 4]| configuration(&graph, options.redis.as_deref(), &business, &chosen, names);
    let written = files.write(secrets, text)?;
    out::line(&format!("{} is written. Its secrets: {}", options.config.display(), written.places.join(", ")))?;

    let setup = Setup { client: &client, token: &token.secret, yes: options.yes };
    let mut failed = false;
    for waba in wabas(&chosen) {
        let callback = options
            .callback
            .as_ref()
            .map(|url| Subscription { callback: url.to_string(), verify_token: written.verify_token.clone() });
        failed |= !setup.subscribe(waba, callback.as_ref()).await?;
    }
    let to = match options.to {
        Some(to) => Some(to),
        None if options.yes => None,
        None => own_number()?,
    };
    if let (Some(to), Some((waba, line))) = (to, chosen.first()) {
        failed |= !setup.first_message(waba, line, to, &options.template).await?;
    }
    out::line(&next_steps(&options.config.display().to_string(), &written.places))?;
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}

/// A line that was chosen, with its WABA.
type Chosen<'a> = (&'a DiscoveredWaba, &'a DiscoveredLine);

/// A secret, and whether it is in a variable of the environment.
struct Given {
    secret: Secret,
    is_variable: bool,
}

impl Given {
    fn source(&self, variable: &'static str) -> SecretSource {
        if self.is_variable { SecretSource::Variable(variable) } else { SecretSource::New(self.secret.clone()) }
    }
}

fn given_or_asked(variable: &str, question: &str) -> Result<Given, CommandError> {
    match variable_of(variable) {
        Some(secret) => match secret.flaw() {
            None => Ok(Given { secret, is_variable: true }),
            Some(flaw) => Err(CommandError::Usage(format!("{variable} {flaw}"))),
        },
        None => Ok(Given { secret: ask::secret(&format!("{question} ({variable})"))?, is_variable: false }),
    }
}

fn generated(variable: &'static str) -> SecretSource {
    if variable_of(variable).is_some() { SecretSource::Variable(variable) } else { SecretSource::Generated }
}

fn variable_of(name: &str) -> Option<Secret> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(Secret::new)
}

/// Shows the lines of the business, and returns those that are chosen.
fn choose<'a>(found: &'a DiscoveredBusiness, wanted: &[String]) -> Result<Vec<Chosen<'a>>, CommandError> {
    out::line(&table::discovery(std::slice::from_ref(found)))?;
    for drift in found.drift.iter().filter(|drift| drift.kind == "unreadable") {
        eprintln!("{}\n→ {}", words::printable(&drift.detail), words::printable(&drift.remedy));
    }
    let lines = || found.wabas.iter().flat_map(|waba| waba.lines.iter().map(move |line| (waba, line)));
    if lines().next().is_none() {
        return Err(CommandError::Failed(format!(
            "business {} has no line that this access token may read: check the id, and assign its WABAs to the system \
             user, with whatsapp_business_management and whatsapp_business_messaging",
            found.id
        )));
    }
    let asked;
    let wanted = if wanted.is_empty() {
        let answer = ask::line("Ids of the lines that are to send, or all")?;
        asked = answer.split([',', ' ']).filter(|id| !id.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        &asked
    } else {
        wanted
    };
    if let Some(unknown) = wanted.iter().find(|id| *id != "all" && !lines().any(|(_, line)| line.id.as_str() == *id)) {
        return Err(CommandError::Usage(format!(
            "the business has no line {unknown}: choose from the ids above, or all"
        )));
    }
    let is_wanted = |(_, line): &Chosen<'_>| wanted.iter().any(|id| id == "all" || id == line.id.as_str());
    let chosen: Vec<_> = lines().filter(is_wanted).collect();
    match chosen.is_empty() {
        true => Err(CommandError::Usage("no line was chosen: choose one of those above, or all".into())),
        false => Ok(chosen),
    }
}

/// The WABAs of the chosen lines, each once.
fn wabas<'a>(chosen: &[Chosen<'a>]) -> Vec<&'a DiscoveredWaba> {
    let mut wabas: Vec<&DiscoveredWaba> = chosen.iter().map(|(waba, _)| *waba).collect();
    wabas.dedup_by(|a, b| a.id == b.id);
    wabas
}

/// The text of the configuration. `secrets`: the sources of token, app secret, verify token and API key.
fn configuration(
    graph: &GraphConfig,
    redis: Option<&str>,
    business: &BusinessId,
    chosen: &[Chosen<'_>],
    [token, app_secret, verify_token, api_key]: &[String; 4],
) -> String {
    // A string of JSON is one of TOML.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = "# Written by pregon setup. Every other key has a default.\n".to_owned();
    if graph.base_url != GraphClientConfig::default().base_url {
        text += &format!("graph.base_url = {}\n", quoted(&graph.base_url));
    }
    if let Some(redis) = redis {
        text += &format!("redis.url = {}\n", quoted(redis));
    }
    text += &format!(
        "http.api_keys = [{{ name = \"backend\", secret = {api_key} }}]\n\
         webhook.verify_token = {verify_token}\n\
         webhook.app_secret = {app_secret}\n\n\
         [[business]]\nid = {}\n",
        quoted(business.as_str())
    );
    for waba in wabas(chosen) {
        text += &format!(
            "\n# {}\n[[waba]]\nid = {}\nbusiness = {}\naccess_token = {token}\n",
            words::printable(&waba.name),
            quoted(waba.id.as_str()),
            quoted(business.as_str())
        );
    }
    for (waba, line) in chosen {
        text += &format!(
            "\n# {}\n[[line]]\nid = {}\nwaba = {}\ndisplay = {}\n",
            words::printable(line.verified_name.as_deref().unwrap_or_default()),
            quoted(line.id.as_str()),
            quoted(waba.id.as_str()),
            quoted(&line.display)
        );
    }
    text
}

/// Asks for the number that gets the first message, until there is a valid answer; `None` if there is to be none.
fn own_number() -> Result<Option<Phone>, CommandError> {
    loop {
        let answer = ask::line("Your own WhatsApp number with a plus, for a first message (empty: none)")?;
        if answer.is_empty() {
            return Ok(None);
        }
        match answer.parse() {
            Ok(phone) => return Ok(Some(phone)),
            Err(error) => eprintln!("{}: {error}", words::printable(&answer)),
        }
    }
}

fn next_steps(config: &str, [.., verify_token, api_key]: &[String; 4]) -> String {
    format!(
        "\nNext:\n\
         1. pregon check --config {config}\n\
         2. pregon serve --config {config}\n\
         3. In Meta's app dashboard, under WhatsApp, Configuration, enter https://YOUR-HOST/webhooks/meta and the \
         verify token ({verify_token}), and subscribe to the field messages and the others of the README\n\
         4. Submit a campaign: pregon campaign submit, with the API key in PREGON_API_KEY ({api_key})"
    )
}

/// The steps at Meta, each after a yes.
struct Setup<'a> {
    client: &'a GraphClient,
    token: &'a Secret,
    yes: bool,
}

impl Setup<'_> {
    fn agrees(&self, question: &str) -> Result<bool, CommandError> {
        if self.yes { Ok(true) } else { ask::confirm(question) }
    }

    /// Subscribes the app to a WABA, if it is not subscribed, or with a callback of its own. Returns whether that went
    /// well.
    async fn subscribe(&self, waba: &DiscoveredWaba, callback: Option<&Subscription>) -> Result<bool, CommandError> {
        let id = &waba.id;
        if waba.subscribed == Some(true) && callback.is_none() {
            out::line(&format!("WABA {id}: the app is subscribed"))?;
            return Ok(true);
        }
        let to = callback.map(|callback| format!(", with {} as callback", callback.callback)).unwrap_or_default();
        if !self.agrees(&format!("Subscribe the app to WABA {id}{to}?"))? {
            out::line(&format!("WABA {id}: not subscribed, so no status of a message arrives until the app is"))?;
            return Ok(true);
        }
        match self.client.subscribe(id, callback, self.token).await {
            Ok(()) => {
                out::line(&format!("WABA {id}: the app is subscribed{to}"))?;
                Ok(true)
            }
            Err(error) => {
                let hint = if callback.is_some() { ": pregon serve must answer at the callback" } else { "" };
                eprintln!("pregon: the app was not subscribed: {}{hint}", words::printable(&error.to_string()));
                Ok(false)
            }
        }
    }

    /// Sends a template without parameters to one person. Returns whether that went well.
    async fn first_message(
        &self,
        waba: &DiscoveredWaba,
        line: &DiscoveredLine,
        to: Phone,
        template: &(String, String),
    ) -> Result<bool, CommandError> {
        let (template, form) = match self.template(&waba.id, template).await {
            Ok(found) => found,
            Err(why) => {
                eprintln!("pregon: no first message: {}", words::printable(&why));
                return Ok(false);
            }
        };
        let question =
            format!("Send template {template} to {to} from line {} ({})?", line.id, words::printable(&line.display));
        if !self.agrees(&question)? {
            return Ok(true);
        }
        let mut body = Vec::new();
        BodyPlan::new(&template, &form).render(to, &[] as &[&str], CALLBACK_DATA, &mut body);
        let message = SendRequest { edge: Edge::Messages, body: body.into() };
        let sender =
            self.client.sender(&line.id, self.token).map_err(|error| CommandError::Usage(error.to_string()))?;
        match send(&sender, message).await {
            Some(Outcome::Accepted { wamid, .. }) => {
                out::line(&format!("Meta accepted the message to {to}: {wamid}"))?;
                Ok(true)
            }
            outcome => {
                let cause = outcome.as_ref().and_then(Outcome::cause);
                let code =
                    cause.and_then(|cause| cause.code()).map(|code| format!("code {code}: ")).unwrap_or_default();
                let details = cause.map_or("no connection", |cause| cause.details());
                eprintln!("pregon: Meta did not accept the message: {code}{}", words::printable(details));
                Ok(false)
            }
        }
    }

    /// The template of a WABA with this name and language, if it can be sent without values.
    async fn template(&self, waba: &WabaId, (name, language): &(String, String)) -> Result<(Template, Form), String> {
        let listed = self.client.templates_named(waba, self.token, name).await.map_err(|error| error.to_string())?;
        let mut templates = listed.iter().map(Template::read);
        let found = templates.find(|template| template.name == *name && template.language.as_str() == language);
        let template = found.ok_or_else(|| {
            format!("WABA {waba} has no template {name}/{language}: name an approved one with --template NAME/LANG")
        })?;
        if let Some(problem) = template.problem() {
            return Err(problem);
        }
        let form = Form::of(&template).map_err(|error| error.to_string())?;
        match form.slots().is_empty() {
            true => Ok((template, form)),
            false => {
                Err(format!("template {template} has parameters: name one without them with --template NAME/LANG"))
            }
        }
    }
}

/// Sends one message. `None` if there was no connection.
async fn send(sender: &LineSender, message: SendRequest) -> Option<Outcome> {
    match sender.permit(Instant::now())? {
        Permit::Open(permit) => sender.send(permit, message).await,
        Permit::New(permit) => match sender.connect(permit, message).await {
            Ok(departure) => Some(departure.leave().await),
            Err(outcome) => Some(outcome),
        },
    }
}
