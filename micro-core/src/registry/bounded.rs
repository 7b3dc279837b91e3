//! What others registered, read without holding more of it than a limit says.
//!
//! For adapters: a few bytes of JSON become a hundred of memory, and a registry hands on what anybody
//! wrote. Go writes what is empty as `null`, and reads `null` as what is empty; so is it read here.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The first `COUNT_MAX` elements of a list. The rest is read over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstOf<T, const COUNT_MAX: usize> {
    /// The elements, in their order.
    pub kept: Vec<T>,
    /// How many there were beyond them.
    pub left_out: usize,
}

impl<T, const COUNT_MAX: usize> Default for FirstOf<T, COUNT_MAX> {
    fn default() -> Self {
        Self { kept: Vec::new(), left_out: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const COUNT_MAX: usize> Deserialize<'de> for FirstOf<T, COUNT_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const COUNT_MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const COUNT_MAX: usize> Visitor<'de> for ListVisitor<T, COUNT_MAX> {
    type Value = FirstOf<T, COUNT_MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(FirstOf::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = FirstOf::default();
        while found.kept.len() < COUNT_MAX
            && let Some(element) = list.next_element()?
        {
            found.kept.push(element);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            found.left_out += 1;
        }
        Ok(found)
    }
}

/// Names and values, at most `COUNT_MAX` pairs and `BYTES_MAX` bytes of text together, in the order in
/// which they come. A value that is `null` is an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs<const COUNT_MAX: usize, const BYTES_MAX: usize> {
    /// What is kept.
    pub kept: BTreeMap<String, String>,
    /// How many there were beyond them.
    pub left_out: usize,
}

impl<'de, const COUNT_MAX: usize, const BYTES_MAX: usize> Deserialize<'de> for Pairs<COUNT_MAX, BYTES_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PairsVisitor)
    }
}

struct PairsVisitor<const COUNT_MAX: usize, const BYTES_MAX: usize>;

impl<'de, const COUNT_MAX: usize, const BYTES_MAX: usize> Visitor<'de> for PairsVisitor<COUNT_MAX, BYTES_MAX> {
    type Value = Pairs<COUNT_MAX, BYTES_MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names and texts, or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Pairs::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Pairs::default();
        let mut bytes_left = BYTES_MAX;
        while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
            let value = value.unwrap_or_default();
            let fits = bytes_left.checked_sub(name.len() + value.len());
            match fits.filter(|_| found.kept.len() < COUNT_MAX || found.kept.contains_key(&name)) {
                Some(left) => {
                    bytes_left = left;
                    found.kept.insert(name, value);
                }
                None => found.left_out += 1,
            }
        }
        Ok(found)
    }
}

/// How much a text of JSON holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonSize {
    /// At least as many as it has values: members and elements, and itself.
    pub values: usize,
    /// How deep objects and lists lie in each other.
    pub depth: usize,
}

impl JsonSize {
    /// Counts without parsing. Of a text that is not JSON, what stands before its first error is
    /// counted right, and no parser makes more of it than that.
    pub fn of(text: &[u8]) -> Self {
        let mut size = Self { values: 1, depth: 0 };
        let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
        for byte in text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = is_text,
                b'"' => is_text = !is_text,
                _ if is_text => {}
                b'{' | b'[' => {
                    depth += 1;
                    size.depth = size.depth.max(depth);
                    size.values += 1;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => size.values += 1,
                _ => {}
            }
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_list_the_first_elements_are_kept_and_the_rest_is_counted() {
        let read = |text: &str| serde_json::from_str::<FirstOf<u8, 3>>(text);
        for (text, kept, left_out) in
            [("null", &[][..], 0), ("[]", &[], 0), ("[1,2,3]", &[1, 2, 3], 0), (r#"[1,2,3,4,{"a":[]}]"#, &[1, 2, 3], 2)]
        {
            assert_eq!(read(text).unwrap(), FirstOf { kept: kept.to_vec(), left_out }, "{text}");
        }
        for text in ["{}", "7", "[1,x]", "[1,2,3,4"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_pairs_those_that_fit_are_kept_and_null_is_an_empty_text() {
        let read = |text: &str| serde_json::from_str::<Pairs<2, 10>>(text);
        for (text, kept, left_out) in [
            ("null", &[][..], 0),
            (r#"{"a":null,"b":"1"}"#, &[("a", ""), ("b", "1")], 0),
            (r#"{"a":"","b":"","c":"","a":"2"}"#, &[("a", "2"), ("b", "")], 1),
            (r#"{"a":"0123456789","b":"1"}"#, &[("b", "1")], 1),
        ] {
            let kept = kept.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(text).unwrap(), Pairs { kept, left_out }, "{text}");
        }
        for text in ["[]", "7", r#"{"a":1}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_counted_and_what_stands_in_texts_is_not() {
        for (text, values, depth) in [
            ("7", 1, 0),
            ("[]", 2, 1),
            ("[1,2,3]", 4, 1),
            (r#"{"a":[{},{}]}"#, 6, 3),
            (r#"{"a":"{,[\",\\"}"#, 2, 1),
            (r#"\"{"#, 1, 0),
            ("]]{", 2, 1),
        ] {
            assert_eq!(JsonSize::of(text.as_bytes()), JsonSize { values, depth }, "{text}");
        }
    }
}
