//! Reads a tree of JSON values member by member, and knows where it stands when it must refuse.
//!
//! Whoever opens an object takes the members he knows and ends with [`Members::finish`]: nothing may
//! be left.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::FORBIDDEN;
use crate::error::Error;
use crate::json::Value;
use crate::rules::{Rule, active};

/// The highest id: 2³² - 1 means "none" to the kernel.
pub(super) const MAX_ID: u64 = u32::MAX as u64 - 1;

/// Where in the config a value stands; a text only when an error needs one.
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Top,
    Member(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    /// The whole config.
    pub(super) const TOP: Self = Self { parent: None, step: Step::Top };

    pub(super) fn member(&'a self, name: &'a str) -> Place<'a> {
        Place { parent: Some(self), step: Step::Member(name) }
    }

    fn item(&'a self, index: usize) -> Place<'a> {
        Place { parent: Some(self), step: Step::Item(index) }
    }

    /// `mounts[3].options`
    fn text(&self) -> String {
        let before = self.parent.map(Place::text).unwrap_or_default();
        match self.step {
            Step::Top => before,
            Step::Member(name) if before.is_empty() => name.into(),
            Step::Member(name) => format!("{before}.{name}"),
            Step::Item(index) => format!("{before}[{index}]"),
        }
    }

    pub(super) fn missing(&self, name: &str) -> Error {
        let why = format!("{} is missing", self.member(name).text());
        Error::refused("config.missing", why, "add this member")
    }

    pub(super) fn wrong_type(&self, expected: &str) -> Error {
        let why = format!(
            "{} is not {expected}",
            if self.parent.is_none() { "config.json".into() } else { self.text() }
        );
        Error::refused("config.type", why, "correct the value of this member")
    }
}

/// The members of one object that have not been taken yet.
pub(super) struct Members<'p> {
    place: &'p Place<'p>,
    members: Vec<(Vec<u8>, Value)>,
}

impl<'p> Members<'p> {
    /// Opens an object and refuses what is never allowed in an object of `kind`.
    pub(super) fn open(value: Value, place: &'p Place<'p>, kind: &str) -> Result<Self, Error> {
        let Value::Object(members) = value else {
            return Err(place.wrong_type("an object"));
        };
        let mut members = Self { place, members };
        for (_, name, rule, code, hint) in FORBIDDEN.iter().filter(|forbidden| forbidden.0 == kind)
        {
            match members.take(name) {
                Some(value) if active(*rule) && !asks_nothing(&value) => {
                    let why = format!("{} is not allowed", place.member(name).text());
                    return Err(Error::refused(code, why, hint));
                }
                _ => {}
            }
        }
        Ok(members)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.members.iter().position(|member| member.0 == name.as_bytes())?;
        Some(self.members.swap_remove(index).1)
    }

    pub(super) fn object<T>(
        &mut self,
        name: &str,
        parse: fn(Value, &Place) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let place = self.place.member(name);
        self.take(name).map(|value| parse(value, &place)).transpose()
    }

    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: fn(Value, &Place) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.object(name, parse)?.ok_or_else(|| self.place.missing(name))
    }

    /// An array of what `parse` makes; absent is empty.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        parse: fn(Value, &Place) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let place = self.place.member(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                let items = values.into_iter().enumerate();
                items.map(|(index, value)| parse(value, &place.item(index))).collect()
            }
            Some(_) => Err(place.wrong_type("an array")),
        }
    }

    pub(super) fn strings(&mut self, name: &str) -> Result<Vec<Vec<u8>>, Error> {
        self.list(name, string)
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.object(name, string)
    }

    /// Absent is false.
    pub(super) fn boolean(&mut self, name: &str) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Boolean(value)) => Ok(value),
            Some(_) => Err(self.place.member(name).wrong_type("true or false")),
        }
    }

    pub(super) fn id(&mut self, name: &str) -> Result<Option<u32>, Error> {
        self.object(name, |value, place| unsigned(value, place, MAX_ID))
    }

    pub(super) fn signed(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.object(name, |value, place| {
            let number = match value {
                Value::Unsigned(number) => i64::try_from(number).ok(),
                Value::Negative(number) => Some(number),
                _ => None,
            };
            number.ok_or_else(|| place.wrong_type("an integer in its range"))
        })
    }

    /// Whoever reads an object ends with this: nothing may be left in it.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.members.first() {
            Some((name, _)) if active(Rule::UnknownMember) => {
                let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
                // Escaped: a name must not write to a terminal or start a line of its own.
                let name = name.escape_debug().to_string();
                let why = format!("the member {} is not known", self.place.member(&name).text());
                let hint =
                    "remove this member; the manual, reference/shim-config, lists what is known";
                Err(Error::refused("config.unknown", why, hint))
            }
            _ => Ok(()),
        }
    }
}

fn string(value: Value, place: &Place) -> Result<Vec<u8>, Error> {
    match value {
        Value::String(bytes) => Ok(bytes),
        _ => Err(place.wrong_type("a string")),
    }
}

pub(super) fn unsigned<T: TryFrom<u64>>(
    value: Value,
    place: &Place,
    most: u64,
) -> Result<T, Error> {
    match value {
        Value::Unsigned(number) if number <= most => T::try_from(number).ok(),
        _ => None,
    }
    .ok_or_else(|| place.wrong_type(&format!("an integer from 0 to {most}")))
}

fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::String(bytes) => bytes.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}
