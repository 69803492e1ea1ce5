//! Templates in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{Language, Template, UnixMs, WabaId};

/// A template, as Meta last returned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Template)]
pub struct TemplateView {
    /// The WABA that owns the template.
    pub waba: WabaId,
    /// The template itself.
    #[serde(flatten)]
    pub template: Template,
    /// Whether a campaign can use it.
    pub usable: bool,
    /// Why a campaign can't use it, and what helps; absent if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<String>,
    /// When it was read from Meta.
    pub synced_at: UnixMs,
}

impl Listed for TemplateView {
    const NAME: &str = "templates";
}

/// A page of templates.
pub type TemplatePage = Page<TemplateView>;

/// The result of reading the templates from Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncedTemplates {
    /// The WABAs of the configured lines.
    pub wabas: Vec<SyncedWaba>,
}

/// A template whose pause Meta has lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpausedTemplate {
    /// The WABA that owns the template.
    pub waba: WabaId,
    /// The name.
    pub name: String,
    /// The language.
    #[schema(value_type = String, example = "es_AR")]
    pub language: Language,
}

/// A WABA whose templates were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncedWaba {
    /// The WABA.
    pub waba: WabaId,
    /// The number of its templates.
    pub templates: u64,
}
