//! stub
use super::Phone;
/// stub
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// stub
    pub to: Phone,
    /// stub
    pub values: Vec<String>,
}
