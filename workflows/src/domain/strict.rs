//! Reads JSON of others by its exact form: objects are objects, and keys come once.
//!
//! What serde derives is more tolerant than that: it takes an array for an object, field by field in the
//! order of their declaration, an object with one key for a word, and of two equal keys the last one. Then
//! `"keep": [true, true, true, true]` would be an answer to a question with four names. The JSON Schemas know
//! no such forms, and neither do the messages.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Error, Map, Value};

/// Beyond this a number with a fraction of zero is not told from its neighbours.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Parses a text whose objects name each key once.
///
/// # Errors
/// Where the text is no such JSON.
pub fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str::<Once>(text).map(|Once(value)| value)
}

/// Reads a value as a type, by its exact form.
///
/// # Errors
/// What is wrong with it.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Strict { value, trail: &Trail::default() })
}

/// The same, for a text of a person: with the place of what is wrong.
///
/// # Errors
/// What is wrong, and the path to it, such as `data_volumes[1].size_gib`; empty for the whole.
pub fn read_located<T: DeserializeOwned>(value: &Value) -> Result<T, (String, Error)> {
    let trail = Trail::default();
    T::deserialize(Strict { value, trail: &trail }).map_err(|error| (trail.path(), error))
}

/// The way to the value that is read; after an error, to the one that was wrong.
#[derive(Default)]
struct Trail(RefCell<Vec<String>>);

impl Trail {
    /// Reads what lies below a key or an index.
    fn below<T>(&self, part: String, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.0.borrow_mut().push(part);
        let read = read()?;
        self.0.borrow_mut().pop();
        Ok(read)
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for part in self.0.borrow().iter() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        path
    }
}

/// The hash of what a value says, whatever the order of its keys; a field that is null is like none.
#[must_use]
pub fn hash(value: &Value) -> String {
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, value);
    hasher.finalize().to_hex().to_string()
}

fn add(hasher: &mut blake3::Hasher, value: &Value) {
    let mut text = |kind: &[u8], text: &str| {
        hasher.update(kind).update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => text(b"v", &value.to_string()),
        Value::String(string) => text(b"s", string),
        Value::Array(values) => {
            text(b"a", &values.len().to_string());
            values.iter().for_each(|value| add(hasher, value));
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            text(b"o", &fields.len().to_string());
            for (key, value) in fields {
                add(hasher, &Value::String(key.clone()));
                add(hasher, value);
            }
        }
    }
}

/// A value whose objects named each key once.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Once(value)) = array.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if fields.contains_key(&key) {
                let key: String = key.chars().take(80).collect();
                return Err(A::Error::custom(format!("the key {key:?} comes twice")));
            }
            let Once(value) = object.next_value()?;
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

/// A value that is read by its exact form.
#[derive(Clone, Copy)]
struct Strict<'a> {
    value: &'a Value,
    trail: &'a Trail,
}

impl Strict<'_> {
    fn unexpected(self) -> Unexpected<'static> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("a number"),
            Value::String(_) => Unexpected::Other("a text"),
            Value::Array(_) => Unexpected::Other("an array"),
            Value::Object(_) => Unexpected::Other("an object"),
        }
    }
}

impl<'de> Deserializer<'de> for Strict<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { value, trail } = self;
        match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                // 1.0 is an integer to JSON Schema.
                (None, None, Some(value)) if value.fract() == 0.0 && value.abs() <= EXACT_MAX =>
                {
                    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number below 2^53")]
                    visitor.visit_i64(value as i64)
                }
                (None, None, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(values) => {
                let mut array = Elements { values: values.iter().enumerate(), trail };
                let value = visitor.visit_seq(&mut array)?;
                match array.values.len() {
                    0 => Ok(value),
                    more => Err(Error::custom(format!("{more} elements too many"))),
                }
            }
            Value::Object(fields) => {
                let mut object = Fields { fields: fields.iter(), present: None, trail };
                let value = visitor.visit_map(&mut object)?;
                match object.fields.len() {
                    0 => Ok(value),
                    more => Err(Error::custom(format!("{more} fields too many"))),
                }
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(Error::invalid_type(self.unexpected(), &visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let trail = self.trail;
        match self.value {
            Value::String(word) => visitor.visit_enum(Variant { word, content: None, trail }),
            Value::Object(fields) if fields.len() == 1 => match fields.iter().next() {
                Some((word, content)) => visitor.visit_enum(Variant { word, content: Some(content), trail }),
                None => Err(Error::invalid_type(self.unexpected(), &visitor)),
            },
            _ => Err(Error::invalid_type(self.unexpected(), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map identifier ignored_any
    }
}

/// The elements of an array that are still to be read.
struct Elements<'a> {
    values: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    trail: &'a Trail,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let trail = self.trail;
        let Some((index, value)) = self.values.next() else { return Ok(None) };
        trail.below(format!("[{index}]"), || seed.deserialize(Strict { value, trail })).map(Some)
    }
}

/// The fields of an object that are still to be read.
struct Fields<'a> {
    fields: serde_json::map::Iter<'a>,
    /// The one whose key was read.
    present: Option<(&'a String, &'a Value)>,
    trail: &'a Trail,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.present = self.fields.next();
        let Some((key, _)) = self.present else { return Ok(None) };
        let key: serde::de::value::StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let trail = self.trail;
        let Some((key, value)) = self.present.take() else {
            return Err(Error::custom("BUG: a value is read after its key"));
        };
        trail.below(key.clone(), || seed.deserialize(Strict { value, trail }))
    }
}

/// A variant of an enum: a word, or an object of one field.
struct Variant<'a> {
    word: &'a str,
    content: Option<&'a Value>,
    trail: &'a Trail,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Content<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'a>), Error> {
        let word: serde::de::value::StrDeserializer<'_, Error> = self.word.into_deserializer();
        let content = self.content.map(|value| Strict { value, trail: self.trail });
        Ok((seed.deserialize(word)?, Content(content)))
    }
}

struct Content<'a>(Option<Strict<'a>>);

impl<'a> Content<'a> {
    fn content(&self, expected: &'static str) -> Result<Strict<'a>, Error> {
        self.0.ok_or_else(|| Error::invalid_type(Unexpected::UnitVariant, &expected))
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(Error::invalid_type(Unexpected::Other("an object"), &"a word")),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.content("an object with a value")?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content("an object with an array")?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content("an object with an object")?.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: bool,
        b: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Shape {
        Word,
        Of { inner: Inner },
        Boxed(Inner),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        shape: Shape,
        list: Vec<Inner>,
        free: Value,
    }

    #[test]
    fn what_is_as_it_should_be_is_read() {
        let inner = json!({"a": true, "b": 7.0});
        let read: Outer =
            read(&json!({"shape": {"of": {"inner": inner}}, "list": [inner, {"a": false}], "free": [1]}))
                .unwrap();
        assert_eq!(read.shape, Shape::Of { inner: Inner { a: true, b: Some(7) } });
        assert_eq!(read.list[1], Inner { a: false, b: None });
        let boxed: Shape = super::read(&json!({"boxed": {"a": true, "b": null}})).unwrap();
        assert_eq!(boxed, Shape::Boxed(Inner { a: true, b: None }));
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        let path = |value: Value| read_located::<Outer>(&value).unwrap_err().0;
        let inner = json!({"a": true});
        let with = |shape: Value, list: Value| json!({"shape": shape, "list": list, "free": {}});
        assert_eq!(path(with(json!("word"), json!([inner, {"a": 7}]))), "list[1].a");
        assert_eq!(path(with(json!({"of": {"inner": {"a": true, "b": 300}}}), json!([]))), "shape.inner.b");
        assert_eq!(path(with(json!("word"), json!([[true, 1]]))), "list[0]");
        assert_eq!(path(json!({"list": []})), "", "a field is missing at the top");
        let good = with(json!({"of": {"inner": inner}}), json!([inner]));
        assert!(read_located::<Outer>(&good).is_ok());
    }

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        let inner = json!({"a": true});
        for (shape, list) in [
            (json!({"of": {"inner": [true, 1]}}), json!([])),
            (json!({"of": [inner]}), json!([])),
            (json!({"boxed": [true, 1]}), json!([])),
            (json!("word"), json!([[true, 1]])),
            (json!({"word": null}), json!([])),
            (json!({"word": {}}), json!([])),
            (json!("of"), json!([])),
            (json!(["word"]), json!([])),
        ] {
            let value = json!({"shape": shape, "list": list, "free": {}});
            assert!(read::<Outer>(&value).is_err(), "{value}");
        }
        assert!(read::<Outer>(&json!(["word", [], {}])).is_err());
        let taken = serde_json::from_value::<Outer>(json!(["word", [], {}]));
        assert!(taken.is_ok(), "what serde derives takes it: {taken:?}");
    }

    #[test]
    fn a_hash_is_of_what_is_said_not_of_how() {
        let of = |text: &str| hash(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":[{"c":null}]}"#), of(r#"{ "b":[{}], "a":1 }"#));
        let all = [
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"b":1}}"#,
            r#"["a",1]"#,
            r#"{"b":1}"#,
            "{}",
        ];
        let hashes: std::collections::BTreeSet<String> = all.iter().map(|text| of(text)).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn a_key_comes_once() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"c":1,"d":2,"c":3}}]"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(parse(text).unwrap_err().to_string().contains("comes twice"), "{text}");
        }
        let text = r#"{"a":{"b":[1,-2,3.5,true,null,"x"]},"b":{"b":1}}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(parse(&"[".repeat(20_000)).is_err());
        assert!(parse("1e400").is_err());
    }
}
