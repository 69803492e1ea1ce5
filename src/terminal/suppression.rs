//! `pregon suppression add|remove|show|list|import|export`.

use serde_json::json;

use super::{
    CommandError,
    arguments::{AddArguments, ImportOptions, PhoneArguments, SuppressionCommand},
    download,
    each::each,
    out,
    pages::first_rows,
    source::Source,
    table, upload, words,
};
use crate::{
    api_types::{NewSuppression, SuppressionView, UploadResult},
    client::{Client, ImportTarget},
    domain::{BusinessId, Phone},
    intake::UploadLayout,
};

/// Runs one of the commands.
pub async fn run(client: &Client, command: SuppressionCommand) -> Result<(), CommandError> {
    match command {
        SuppressionCommand::Add(people) => add(client, &people).await,
        SuppressionCommand::Remove(people) => remove(client, &people).await,
        SuppressionCommand::Show { phone, business, output } => {
            show(client, phone, business.business.as_ref(), output.json).await
        }
        SuppressionCommand::List { business, limit, output } => {
            list(client, business.business.as_ref(), limit.into(), output.json).await
        }
        SuppressionCommand::Import(options) => import(client, options).await,
        SuppressionCommand::Export { business, output } => {
            let request = client.export_suppressions(business.business.as_ref());
            download::save(client, output.as_deref(), request).await
        }
    }
}

/// Suppresses people, one by one. A failure does not affect the others.
async fn add(client: &Client, people: &AddArguments) -> Result<(), CommandError> {
    let business = people.business.business.clone();
    let new = NewSuppression { business, scope: people.scope, reason: people.reason.unwrap_or_default() };
    let call = async |phone: &Phone| client.suppress(*phone, &new).await;
    each(&people.phones, call, |phone, stored| match people.output.json {
        true => out::json(&stored),
        false => out::line(&suppressed(*phone, &stored)),
    })
    .await
}

/// Ends suppressions, one by one. A failure does not affect the others.
async fn remove(client: &Client, people: &PhoneArguments) -> Result<(), CommandError> {
    let call = async |phone: &Phone| client.unsuppress(*phone, people.business.business.as_ref()).await;
    each(&people.phones, call, |phone, ()| match people.output.json {
        true => out::json(&json!({ "phone": phone, "removed": true })),
        false => out::line(&format!("{phone} gets messages again")),
    })
    .await
}

async fn show(client: &Client, phone: Phone, business: Option<&BusinessId>, json: bool) -> Result<(), CommandError> {
    let stored = client.suppression(phone, business).await?;
    Ok(if json { out::json(&stored) } else { out::line(&suppressed(phone, &stored)) }?)
}

/// Prints the suppressions of a business, at most `limit`.
async fn list(client: &Client, business: Option<&BusinessId>, limit: usize, json: bool) -> Result<(), CommandError> {
    let (people, cut) = first_rows(limit, async |next| client.suppressions(business, next.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "suppressions": people }))?);
    }
    out::line(&table::suppressions(&people))?;
    if cut {
        out::line(&format!("\nOnly {limit} are shown; a larger --limit shows more, and `export` writes all."))?;
    }
    Ok(())
}

/// Imports a list.
///
/// Errors: the file or the call failed; no row was accepted, or too many were rejected.
async fn import(client: &Client, options: ImportOptions) -> Result<(), CommandError> {
    let ImportOptions { file, business, scope, reason, ignore, max_rejected, output } = options;
    let target = ImportTarget { business: business.business, scope, reason };
    let source = Source::open(&file).await?;
    let layout = UploadLayout { format: source.format, ignored: ignore };
    let send = async |rows| client.import_suppressions(&target, &source.digest, &layout, source.coding, rows).await;
    let imported = upload::send(&source, send).await?;
    let UploadResult { accepted, rejected_count, .. } = imported;
    if output.json {
        out::json(&imported)?;
    } else {
        let [accepted, rejected] = [accepted, rejected_count].map(words::count);
        out::line(&(format!("{accepted} suppressed, {rejected} rejected") + &upload::rejections(&imported)))?;
    }
    if accepted == 0 && rejected_count > 0 {
        return Err(CommandError::Failed("no row was accepted, so nobody was suppressed".into()));
    }
    upload::shortfall(&imported, Some(max_rejected)).map_or(Ok(()), |why| {
        Err(CommandError::Failed(format!(
            "{why}: the people in rejected rows still get messages; correct the file and import it again"
        )))
    })
}

/// The suppression as a sentence.
fn suppressed(phone: Phone, stored: &SuppressionView) -> String {
    let SuppressionView { business, scope, reason, since, source, .. } = stored;
    let messages = words::suppressed_messages(*scope);
    let (reason, source, since) = (reason.name(), source.name(), words::time(*since));
    format!("{phone} gets no {messages} from business {business} since {since} ({reason}, {source})")
}
