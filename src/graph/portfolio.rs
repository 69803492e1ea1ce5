//! Reads what a business has at Meta: its WABAs, their lines and the apps that receive their webhooks. Also subscribes
//! the app of a token to a WABA.
//!
//! Owns: the shape of those responses. Values that Meta may extend stay text.

use std::fmt;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    GraphClient, GraphError, LineInfo,
    management::{LINE_FIELDS, Subject},
};
use crate::domain::{BusinessId, LineId, Secret, WabaId};

/// How a business has a WABA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The business owns it.
    Owned,
    /// Another business owns it and has shared it.
    Client,
}

impl Ownership {
    /// Meta's edge of the business that lists these WABAs.
    pub fn edge(self) -> &'static str {
        match self {
            Self::Owned => "owned_whatsapp_business_accounts",
            Self::Client => "client_whatsapp_business_accounts",
        }
    }
}

/// A WABA in the list of a business.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListedWaba {
    /// Its id.
    pub id: WabaId,
    /// Its name; may be empty.
    #[serde(default)]
    pub name: String,
}

/// A line in the list of its WABA. Values are as Meta writes them; `None` if Meta returned none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLine {
    /// The line.
    pub id: LineId,
    /// Its status.
    pub info: LineInfo,
    /// Whether Meta accepted the display name: `APPROVED`, `PENDING_REVIEW`, `DECLINED` and others.
    pub name_status: Option<String>,
    /// Whether the business has proved that the number is its own: `VERIFIED`, `NOT_VERIFIED`, `EXPIRED`.
    pub code_verification: Option<String>,
    /// The id of the app that the token of the call belongs to, from the line's health.
    pub app: Option<String>,
}

/// An app that receives the webhooks of a WABA. Shown by its name, otherwise by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubscribedApp {
    /// Its id; `None` if Meta returned none.
    pub id: Option<String>,
    /// Its name; `None` if Meta returned none.
    pub name: Option<String>,
}

impl fmt::Display for SubscribedApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().or(self.id.as_deref()).unwrap_or("an app without a name"))
    }
}

/// A callback for the webhooks of one WABA, in place of that of the app. Meta calls it before it accepts it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The URL of the callback.
    pub callback: String,
    /// What Meta sends there to verify it.
    pub verify_token: Secret,
}

impl GraphClient {
    /// The WABAs of a business, from all pages.
    ///
    /// # Errors
    /// [`GraphError`]. A partial list is never returned.
    pub async fn wabas(
        &self,
        business: &BusinessId,
        ownership: Ownership,
        token: &Secret,
    ) -> Result<Vec<ListedWaba>, GraphError> {
        let what = Subject::Wabas(business.clone());
        let wabas = self.list(&what, [business.as_str(), ownership.edge()], &[("fields", "id,name")], token).await?;
        wabas.into_iter().map(|waba| read(&what, waba)).collect()
    }

    /// The lines of a WABA, from all pages.
    ///
    /// # Errors
    /// [`GraphError`]. A partial list is never returned.
    pub async fn lines(&self, waba: &WabaId, token: &Secret) -> Result<Vec<ListedLine>, GraphError> {
        #[derive(Deserialize)]
        struct Id {
            id: LineId,
        }
        let what = Subject::Lines(waba.clone());
        let fields = format!("{LINE_FIELDS},name_status,code_verification_status");
        let lines = self.list(&what, [waba.as_str(), "phone_numbers"], &[("fields", &fields)], token).await?;
        let line = |line: Value| {
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            let entities = line["health_status"]["entities"].as_array().into_iter().flatten();
            let app = entities.filter(|entity| entity["entity_type"] == "APP").find_map(|app| app["id"].as_str());
            Ok(ListedLine {
                name_status: text("name_status"),
                code_verification: text("code_verification_status"),
                app: app.map(str::to_owned),
                id: read::<Id>(&what, line.clone())?.id,
                info: read(&what, line)?,
            })
        };
        lines.into_iter().map(line).collect()
    }

    /// The apps that receive the webhooks of `waba`. Only the first page is read: a WABA has few apps.
    ///
    /// # Errors
    /// [`GraphError`]
    pub async fn subscribed_apps(&self, waba: &WabaId, token: &Secret) -> Result<Vec<SubscribedApp>, GraphError> {
        #[derive(Deserialize)]
        struct Apps {
            data: Vec<Subscription>,
        }
        #[derive(Deserialize)]
        struct Subscription {
            #[serde(default, rename = "whatsapp_business_api_data")]
            app: SubscribedApp,
        }
        let url = self.endpoint([waba.as_str(), "subscribed_apps"]);
        let apps: Apps = self.read(&Subject::Apps(waba.clone()), url, token).await?;
        Ok(apps.data.into_iter().map(|subscription| subscription.app).collect())
    }

    /// Subscribes the app of `token` to the webhooks of `waba`, which may be subscribed already.
    ///
    /// # Errors
    /// [`GraphError`]. Unless Meta refused, the app may be subscribed.
    /// Source: Meta's documentation of webhook overrides, in a copy of October 2026.
    pub async fn subscribe(&self, waba: &WabaId, own: Option<&Subscription>, token: &Secret) -> Result<(), GraphError> {
        #[derive(Deserialize)]
        struct Done {
            success: bool,
        }
        let body =
            own.map(|own| json!({"override_callback_uri": &own.callback, "verify_token": own.verify_token.expose()}));
        let what = Subject::Apps(waba.clone());
        let url = self.endpoint([waba.as_str(), "subscribed_apps"]);
        let Done { success } = self.call(Method::POST, &what, url, body.as_ref(), token).await?;
        match success {
            true => Ok(()),
            false => Err(GraphError::NotMeta { what, reason: "no error, and no success".to_owned() }),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(what: &Subject, value: Value) -> Result<T, GraphError> {
    serde_json::from_value(value).map_err(|error| GraphError::NotMeta { what: what.clone(), reason: error.to_string() })
}
