//! The properties that a business defines for its contacts.

use super::{Database, DatabaseError, Result, millis, time};
use crate::domain::{
    BusinessId, UnixMs,
    property::{PROPERTIES_MAX, PropertyKind},
};

/// A property of contacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The business.
    pub business: BusinessId,
    /// Its key.
    pub key: String,
    /// What people read.
    pub label: String,
    /// Its type.
    pub kind: PropertyKind,
    /// Of a choice: the texts.
    pub choices: Vec<String>,
    /// When it was created.
    pub created_at: UnixMs,
}

/// Why a property was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyRefused {
    /// The business has a property with this key.
    Exists,
    /// The business has [`PROPERTIES_MAX`] properties.
    TooMany,
}

impl Database {
    /// The properties of businesses (`None`: of all), by business and key.
    pub async fn properties(&self, businesses: Option<&[String]>) -> Result<Vec<Property>> {
        let rows = sqlx::query!(
            "select business, key, label, kind, choices, created_at from properties
             where $1::text[] is null or business = any($1) order by business, key",
            businesses
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("list properties"))?;
        let properties = rows.into_iter().map(|row| Property {
            business: row.business.as_str().into(),
            key: row.key,
            label: row.label,
            kind: PropertyKind::of(row.kind).unwrap_or(PropertyKind::Text),
            choices: row.choices,
            created_at: time(row.created_at),
        });
        Ok(properties.collect())
    }

    /// Creates a property.
    pub async fn create_property(&self, new: &Property) -> Result<std::result::Result<(), PropertyRefused>> {
        let failed = DatabaseError::of("create a property");
        let known = sqlx::query_scalar!(
            r#"select count(*) as "n!" from properties where business = $1"#,
            new.business.as_str()
        );
        if known.fetch_one(&self.pool).await.map_err(&failed)? >= PROPERTIES_MAX as i64 {
            return Ok(Err(PropertyRefused::TooMany));
        }
        let created = sqlx::query!(
            "insert into properties (business, key, label, kind, choices, created_at) values ($1, $2, $3, $4, $5, $6)
             on conflict do nothing",
            new.business.as_str(),
            new.key,
            new.label,
            new.kind.code(),
            &new.choices,
            millis(new.created_at)
        )
        .execute(&self.pool)
        .await
        .map_err(failed)?;
        Ok(if created.rows_affected() > 0 { Ok(()) } else { Err(PropertyRefused::Exists) })
    }

    /// Changes the label and the choices of a property; `None` stays as it is. Values that are no choice any more stay.
    /// Returns whether there is one.
    pub async fn change_property(
        &self,
        business: &BusinessId,
        key: &str,
        label: Option<&str>,
        choices: Option<&[String]>,
    ) -> Result<bool> {
        let changed = sqlx::query!(
            "update properties set label = coalesce($3, label), choices = coalesce($4, choices)
             where business = $1 and key = $2",
            business.as_str(),
            key,
            label,
            choices
        );
        let changed = changed.execute(&self.pool).await.map_err(DatabaseError::of("change a property"))?;
        Ok(changed.rows_affected() > 0)
    }

    /// Removes a property. Its values stay, and nobody sees them. Returns whether there was one.
    pub async fn remove_property(&self, business: &BusinessId, key: &str) -> Result<bool> {
        let removed = sqlx::query!("delete from properties where business = $1 and key = $2", business.as_str(), key);
        let removed = removed.execute(&self.pool).await.map_err(DatabaseError::of("remove a property"))?;
        Ok(removed.rows_affected() > 0)
    }
}
