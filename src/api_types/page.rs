//! A page of a list: `{"campaigns": […], "next": …}`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
    ser::SerializeStruct as _,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type},
    },
};

/// What lists have rows of.
pub trait Listed {
    /// The name of the rows on the wire, such as `campaigns`.
    const NAME: &str;
}

/// A page of a list. On the wire the rows have the name of their resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The cursor of the next page; `None` on the last page.
    pub next: Option<String>,
}

impl<T: Listed + Serialize> Serialize for Page<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut page = serializer.serialize_struct("Page", 2)?;
        page.serialize_field(T::NAME, &self.rows)?;
        page.serialize_field("next", &self.next)?;
        page.end()
    }
}

impl<'de, T: Listed + Deserialize<'de>> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PageVisitor<T>(PhantomData<T>);

        impl<'de, T: Listed + Deserialize<'de>> Visitor<'de> for PageVisitor<T> {
            type Value = Page<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a page of {}", T::NAME)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page<T>, A::Error> {
                let (mut rows, mut next) = (None, None);
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if name == T::NAME {
                        rows = Some(map.next_value()?);
                    } else if name == "next" {
                        next = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Page { rows: rows.ok_or_else(|| A::Error::missing_field(T::NAME))?, next })
            }
        }

        deserializer.deserialize_map(PageVisitor(PhantomData))
    }
}

impl<T: Listed + ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let rows = ArrayBuilder::new().items(RefOr::Ref(utoipa::openapi::Ref::from_schema_name(T::name())));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("The cursor of the next page; null on the last page."));
        let page = ObjectBuilder::new().property(T::NAME, rows).property("next", next);
        page.required(T::NAME).required("next").into()
    }
}

impl<T: Listed + ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row(u8);

    impl Listed for Row {
        const NAME: &str = "rows";
    }

    #[test]
    fn a_page_names_its_rows_and_ignores_unknown_fields() {
        let page = Page { rows: vec![Row(1), Row(2)], next: None };
        assert_eq!(serde_json::to_string(&page).expect("JSON"), r#"{"rows":[1,2],"next":null}"#);
        let read = |json| serde_json::from_str::<Page<Row>>(json);
        assert_eq!(read(r#"{"total":{"n":2},"rows":[1,2]}"#).expect("a page"), page);
        assert_eq!(read(r#"{"rows":[],"next":"7"}"#).expect("a page").next.as_deref(), Some("7"));
        assert!(read(r#"{"lines":[1],"next":null}"#).is_err(), "a page of something else");
    }
}
