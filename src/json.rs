//! Lenient parsing of JSON from third parties: a field of an unexpected type counts as missing, and the rest of the
//! document is still read.
//!
//! One pass, without an intermediate tree. Only malformed JSON is an error. Nesting is limited by the types that are
//! parsed, and skipping a value does not recurse.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde_json::value::RawValue;

/// 2^53: below this an `f64` without a fraction is an exact integer.
const WHOLE_MAX: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;

/// A string, or an integer as its decimal text.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Text<'a>(pub(crate) Option<Cow<'a, str>>);

/// A non-negative integer, written as `7`, `7.0` or `"7"`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Number(pub(crate) Option<u64>);

/// An object; `None` for any other type.
#[derive(Debug, PartialEq)]
pub(crate) struct Object<T>(pub(crate) Option<T>);

/// An array of objects. Elements that are not objects are dropped, and so are elements without any known field:
/// a body full of `{}` would otherwise take a hundred times its size in memory.
#[derive(Debug, PartialEq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// Any JSON value, not parsed yet. Found by skipping the value, which costs less than parsing it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw<'a>(pub(crate) Option<&'a RawValue>);

/// The members of an object with their names, in order. For objects that are rare, or whose member names depend on the
/// value of another member.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Raw<'a>)>);

/// Declares types that are parsed from objects of which any field may be missing, each with a lifetime `'a`. Other
/// fields are skipped. The last one of duplicate fields counts, as in most JSON parsers; the derived implementation
/// would reject the whole document.
macro_rules! objects {
    ($($name:ident { $($field:ident: $kind:ty,)* })*) => {
        $(#[derive(Debug, Default, PartialEq)]
        pub(crate) struct $name<'a> {
            $(pub(crate) $field: $kind,)*
        }

        impl<'de: 'a, 'a> serde::Deserialize<'de> for $name<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut value = Self::Value::default();
                        while let Some($crate::json::Text(name)) = map.next_key()? {
                            match name.as_deref() {
                                $(Some(stringify!($field)) => value.$field = map.next_value()?,)*
                                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                            }
                        }
                        Ok(value)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        })*
    };
}
pub(crate) use objects;

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Deserializes a `T` from an object, and fails for any other type. For requests from API callers: by itself, serde
/// would also accept an array for a struct, with the fields identified by position.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    json.deserialize_map(Fields(PhantomData))
}

/// A `T` in an object: see [`object`].
struct InObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InObject<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        object(json).map(Self)
    }
}

/// Like [`object`], for a field that may be null.
pub(crate) fn optional_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<InObject<T>>::deserialize(json)?.map(|InObject(value)| value))
}

/// Like [`object`], for each item of a list that may be null, which counts as an empty one.
pub(crate) fn list_of_objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    Ok(list::<InObject<T>, D>(json)?.into_iter().map(|InObject(value)| value).collect())
}

/// A list that may be null, which counts as an empty one.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

/// Visitor methods that treat the given types as a missing value.
macro_rules! missing {
    ($($kind:ident)*) => { $(missing!(@ $kind);)* };
    (@ bool) => { fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ i64) => { fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ u64) => { fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ f64) => { fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ str) => { fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ null) => { fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@ array) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            missing!(bool f64 null array object);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl<'de> Visitor<'de> for NumberVisitor {
            type Value = Number;

            missing!(bool i64 null array object);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                let is_whole = number.fract() == 0.0 && (0.0..WHOLE_MAX).contains(&number);
                Ok(Number(is_whole.then_some(number as u64)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Number(Some(number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Number(text.parse().ok()))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            missing!(bool i64 u64 f64 str null array);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Object(Some(value)))
            }
        }

        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de> + Default + PartialEq> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default + PartialEq> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            missing!(bool i64 u64 f64 str null object);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Object(item)) = seq.next_element()? {
                    items.extend(item.filter(|item| *item != T::default()));
                }
                Ok(List(items))
            }
        }

        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

impl PartialEq for Raw<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.map(RawValue::get) == other.0.map(RawValue::get)
    }
}

impl<'a> Raw<'a> {
    /// Parses the value; returns the default if it is missing.
    pub(crate) fn read<T: Deserialize<'a> + Default>(self) -> serde_json::Result<T> {
        self.0.map_or_else(|| Ok(T::default()), |json| serde_json::from_str(json.get()))
    }

    /// The text of a decimal number, which may be written as a number or a string.
    pub(crate) fn decimal(self) -> Option<String> {
        let text = self.0?.get().trim_matches('"');
        text.parse::<f64>().is_ok_and(f64::is_finite).then(|| text.to_owned())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    members.push((name.unwrap_or_default(), map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'a> Members<'a> {
    /// The last member with this name.
    pub(crate) fn get(&self, name: &str) -> Raw<'a> {
        self.0.iter().rfind(|(found, _)| found == name).map_or(Raw(None), |(_, value)| *value)
    }

    /// The member with this name; the default if it has another type.
    pub(crate) fn lenient<T: Deserialize<'a> + Default>(&self, name: &str) -> T {
        // An error is a number outside the range of `f64`: the syntax was checked when the member was found.
        self.get(name).read().unwrap_or_default()
    }

    /// A string, or an integer as its decimal text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.lenient::<Text<'_>>(name).0.map(Cow::into_owned)
    }

    /// Whether the member is `true`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).0.is_some_and(|value| value.get() == "true")
    }

    /// An object.
    pub(crate) fn object(&self, name: &str) -> Option<Members<'a>> {
        self.lenient::<Object<_>>(name).0
    }

    /// Applies `read` to each object of an array, and leaves out results that equal the default. Parses one object at a
    /// time, because an array full of `{"":0}` would take thirty times its size in memory.
    pub(crate) fn list<T: Default + PartialEq>(&self, name: &str, read: impl Fn(&Members<'a>) -> T) -> Vec<T> {
        let elements = self.lenient::<Vec<Raw<'a>>>(name).into_iter();
        let objects = elements.filter_map(|element| element.read::<Object<Members<'_>>>().ok()?.0);
        objects.map(|object| read(&object)).filter(|item| *item != T::default()).collect()
    }
}

/// Replaces every escaped surrogate without its other half by U+FFFD, because serde_json rejects the whole document for
/// one. A truncated emoji leaves such a surrogate.
pub(crate) fn replace_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut replaced = Cow::Borrowed(json);
    if !json.contains(&b'\\') {
        return replaced;
    }
    let mut from = 0;
    while let Some(ahead) = json[from..].iter().position(|byte| *byte == b'\\') {
        let escape = from + ahead;
        from = json.len().min(escape + 2);
        let Some(unit) = surrogate(json, escape) else { continue };
        let is_pair = unit < 0xdc00 && surrogate(json, escape + 6).is_some_and(|low| low >= 0xdc00);
        if is_pair {
            from = escape + 12;
        } else {
            replaced.to_mut()[escape..escape + 6].copy_from_slice(br"\ufffd");
        }
    }
    replaced
}

/// The surrogate code unit of the `\uXXXX` escape at `at`, if there is one.
fn surrogate(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(br"\u")?;
    let unit = u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    (0xd800..0xe000).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_kept() {
        for (text, expected) in [
            (r#""S\u00ed \ud83d""#, "Sí \u{fffd}"),
            (r#""\ude00 \ud83d\ude00 \uD83D\uDE00""#, "\u{fffd} \u{1f600} \u{1f600}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\\ud83d \\\ud83d""#, "\\ud83d \\\u{fffd}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
        ] {
            let read: String = serde_json::from_slice(&replace_lone_surrogates(text.as_bytes())).expect(text);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn text_that_ends_in_an_escape_is_left_as_it_is() {
        for text in ["\\", "\\u", "\\ud83", "\\\\", r"\u+d83", ""] {
            assert_eq!(replace_lone_surrogates(text.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn whole_numbers_are_read_in_every_spelling() {
        for (text, number) in [
            ("131026", Some(131_026)),
            ("131026.0", Some(131_026)),
            ("1.31026e5", Some(131_026)),
            ("\"131026\"", Some(131_026)),
            ("131026.5", None),
            ("-1.0", None),
            ("1e300", None),
            ("null", None),
            ("[7]", None),
        ] {
            assert_eq!(serde_json::from_str::<Number>(text).expect(text), Number(number), "{text}");
        }
    }

    #[test]
    fn the_last_of_duplicate_members_counts() {
        let json = r#"{"a":[1],"b":{"c":null},"a":"x","n":1e999,"l":[7,{},{"c":2},[{"c":3}],{"c":4}],"yes":true}"#;
        let members: Members<'_> = serde_json::from_str(json).expect("members");
        assert_eq!(members.text("a").as_deref(), Some("x"));
        assert_eq!((members.text("b"), members.text("n"), members.text("none")), (None, None, None));
        assert_eq!(members.object("b").expect("an object").get("c").0.expect("a value").get(), "null");
        assert!(members.object("a").is_none() && members.object("l").is_none());
        assert_eq!(members.list("l", |item| item.text("c")), [Some("2".into()), Some("4".into())]);
        assert_eq!(members.list("a", |item| item.text("c")), []);
        assert!(members.flag("yes") && !members.flag("a") && !members.flag("none"));
    }

    #[test]
    fn a_decimal_is_kept_as_it_is_written() {
        for (json, decimal) in [
            ("2", Some("2")),
            ("-34.60", Some("-34.60")),
            ("\"0.10\"", Some("0.10")),
            ("1e999", None),
            ("\"nan\"", None),
            ("\"\"", None),
            ("[1]", None),
            ("null", None),
        ] {
            let raw: Raw<'_> = serde_json::from_str(json).expect(json);
            assert_eq!(raw.decimal().as_deref(), decimal, "{json}");
        }
    }
}
