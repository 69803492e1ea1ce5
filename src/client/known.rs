//! A part of a response, both as this version parses it and as the server sent it.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

use crate::api_types::{CampaignView, Listed, Statistics};

/// A `T`, with the JSON that it was read from. Serializes as that JSON, so that `--json` also prints the fields that
/// this version does not know.
#[derive(Clone, Debug)]
pub struct Known<T> {
    value: T,
    json: Box<RawValue>,
}

impl<T> Deref for Known<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Listed> Listed for Known<T> {
    const NAME: &str = T::NAME;
}

impl<T> Serialize for Known<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl<'de, T: for<'a> Deserialize<'a>> Deserialize<'de> for Known<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let value = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        Ok(Self { value, json })
    }
}

impl Known<CampaignView> {
    /// The statistics of the campaign, if the server sent them.
    pub fn statistics(&self) -> Option<Known<Statistics>> {
        #[derive(Deserialize)]
        struct Campaign {
            statistics: Option<Known<Statistics>>,
        }
        serde_json::from_str::<Campaign>(self.json.get()).ok()?.statistics
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_newer_or_older_server_is_understood() {
        let newer = json!({
            "id": "01JD8Z2V3W4X5Y6Z7A8B9C0D1E", "state": "running", "mood": "good",
            "template": { "name": "order_update", "language": "es_AR", "id": 7 },
            "statistics": { "recipients": 3, "waiting_for": [{ "reason": "full_moon", "phase": 1 }], "by_hour": [3] },
        });
        let campaign: Known<CampaignView> = serde_json::from_str(&newer.to_string()).expect("a campaign");
        let statistics = campaign.statistics().expect("statistics");
        assert_eq!((campaign.template.name.as_str(), statistics.recipients), ("order_update", 3));
        let printed = |json: Value| serde_json::to_string(&json).expect("JSON");
        assert_eq!(serde_json::to_string(&campaign).expect("JSON"), printed(newer.clone()));
        assert_eq!(serde_json::to_string(&statistics).expect("JSON"), printed(newer["statistics"].clone()));
        assert!(serde_json::from_str::<Known<CampaignView>>(r#"{"id":"x","state":"running"}"#).is_err());
    }
}
