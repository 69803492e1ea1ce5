//! stub
use serde::{Deserialize, Serialize};
/// stub
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// stub
    pub name: String,
    /// stub
    pub language: Language,
}
/// stub
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Language(String);
impl Language {
    /// stub
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
