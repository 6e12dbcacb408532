//! What a kind looks like, as data, and the walk that checks a document against it.
//!
//! The walk fills in defaults as an API server does, and reports everything that is wrong, not only
//! the first thing.

use serde_json::{Map, Value};

use crate::finding::codes;
use crate::finding::suggest::did_you_mean;
use crate::model::text::Format;

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Schema {
    /// An object with these fields and no others.
    Object(&'static ObjectSchema),
    /// An object whose keys are free.
    Map {
        /// What each value is.
        value: &'static Schema,
        /// How many entries there may be.
        max: usize,
    },
    /// A list.
    List {
        /// What each element is.
        item: &'static Schema,
        /// How few elements there may be.
        min: usize,
        /// How many elements there may be.
        max: usize,
        /// Fields by which elements must differ (an empty name is the element itself); with none,
        /// all may be equal.
        keys: &'static [&'static str],
    },
    /// Text of a form.
    Text(Format),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A whole number within these bounds.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// One of these numbers.
    Number(&'static [i64]),
    /// True or false.
    Boolean,
    /// Anything: what is kept and not looked at.
    Any,
}

/// The fields of an object, and what must hold between them.
#[derive(Debug)]
pub struct ObjectSchema {
    /// The fields.
    pub fields: &'static [Field],
    /// Checked when each field is right by itself.
    pub rules: &'static [Rule],
}

/// What must hold between the fields of an object.
pub type Rule = fn(&Value, &mut Report);

/// One field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub schema: Schema,
    /// Whether it must be there.
    pub presence: Presence,
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy)]
pub enum Presence {
    /// It may be left out.
    Optional,
    /// It must be there.
    Required,
    /// Left out, it is this JSON.
    Default(&'static str),
}

/// A field that may be left out.
pub const fn optional(name: &'static str, schema: Schema) -> Field {
    Field { name, schema, presence: Presence::Optional }
}

/// A field that must be there.
pub const fn required(name: &'static str, schema: Schema) -> Field {
    Field { name, schema, presence: Presence::Required }
}

/// A field that has this value, given as JSON, when it is left out.
pub const fn defaulted(name: &'static str, json: &'static str, schema: Schema) -> Field {
    Field { name, schema, presence: Presence::Default(json) }
}

/// A list of at most `max` elements.
pub const fn list(item: &'static Schema, max: usize) -> Schema {
    Schema::List { item, min: 0, max, keys: &[] }
}

/// What the walk has found, and where it stands.
#[derive(Debug, Default)]
pub struct Report {
    path: String,
    /// What is wrong, in the order it was found.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong within an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its code.
    pub code: &'static str,
    /// The field, from the document's root.
    pub field: String,
    /// The sentence.
    pub message: String,
    /// What would help.
    pub help: Option<String>,
}

impl Report {
    /// Something is wrong where the walk stands.
    pub fn add(&mut self, code: &'static str, message: impl Into<String>) {
        self.problems.push(Problem {
            code,
            field: self.path.clone(),
            message: message.into(),
            help: None,
        });
    }

    /// Something is wrong in the field `relative` of where the walk stands.
    pub fn add_at(&mut self, relative: &str, code: &'static str, message: impl Into<String>) {
        self.within(relative, |report| report.add(code, message));
    }

    /// Adds what would help to the last problem.
    pub fn help(&mut self, help: Option<String>) {
        if let Some(problem) = self.problems.last_mut() {
            problem.help = help;
        }
    }

    /// Does `work` one step further down: a field name or `[index]`.
    pub fn within<T>(&mut self, step: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let out = work(self);
        self.path.truncate(length);
        out
    }
}

/// Checks `value`, filling in defaults.
pub fn check(schema: &Schema, value: &mut Value, report: &mut Report) {
    match (schema, value) {
        (Schema::Object(object), Value::Object(fields)) => check_object(object, fields, report),
        (Schema::Map { value: inner, max }, Value::Object(entries)) => {
            at_most(entries.len(), *max, "entries", report);
            for (key, value) in entries.iter_mut() {
                report.within(&map_step(key), |report| check(inner, value, report));
            }
        }
        (Schema::List { item, min, max, keys }, Value::Array(items)) => {
            at_most(items.len(), *max, "entries", report);
            if items.len() < *min {
                report.add(codes::OUT_OF_RANGE, format!("must have at least {min} entries"));
            }
            for (index, value) in items.iter_mut().enumerate() {
                report.within(&format!("[{index}]"), |report| check(item, value, report));
            }
            check_keys(items, keys, report);
        }
        (Schema::Text(format), Value::String(text)) => format.check(text, report),
        (Schema::Enum(words), Value::String(text)) => check_word(words, text, report),
        (Schema::Integer { min, max }, Value::Number(number)) => match number.as_i64() {
            Some(number) if (*min..=*max).contains(&number) => {}
            Some(_) => report.add(codes::OUT_OF_RANGE, format!("must be from {min} to {max}")),
            None => report.add(codes::WRONG_TYPE, "must be a whole number"),
        },
        (Schema::Number(known), Value::Number(number)) => {
            if !number.as_i64().is_some_and(|number| known.contains(&number)) {
                let known: Vec<String> = known.iter().map(i64::to_string).collect();
                report.add(codes::OUT_OF_RANGE, format!("must be one of {}", known.join(", ")));
            }
        }
        (Schema::Boolean, Value::Bool(_)) | (Schema::Any, _) => {}
        (schema, value) => {
            let wanted = schema.noun();
            let found = noun(value);
            report.add(codes::WRONG_TYPE, format!("must be {wanted}, is {found}"));
        }
    }
}

/// A map's key as a step of a path; one with dots or slashes is quoted.
pub fn map_step(key: &str) -> String {
    if key.contains(['.', '[', '/']) { format!("[\"{key}\"]") } else { key.to_owned() }
}

fn check_object(schema: &ObjectSchema, fields: &mut Map<String, Value>, report: &mut Report) {
    let before = report.problems.len();
    let unknown: Vec<String> = fields
        .keys()
        .filter(|name| schema.fields.iter().all(|field| field.name != *name))
        .cloned()
        .collect();
    for name in unknown {
        let known = schema.fields.iter().map(|field| field.name);
        let help = did_you_mean(&name, known);
        report.add_at(&map_step(&name), codes::UNKNOWN_FIELD, "unknown field");
        report.help(help);
    }
    for field in schema.fields {
        check_field(field, fields, report);
    }
    if report.problems.len() == before {
        // The rules look at the object as a value; it is put back when they are done.
        let value = Value::Object(std::mem::take(fields));
        for rule in schema.rules {
            rule(&value, report);
        }
        if let Value::Object(object) = value {
            *fields = object;
        }
    }
}

fn check_field(field: &Field, fields: &mut Map<String, Value>, report: &mut Report) {
    // A null is a field that is not there, as for an API server.
    if fields.get(field.name).is_some_and(Value::is_null) {
        fields.shift_remove(field.name);
    }
    if !fields.contains_key(field.name) {
        match field.presence {
            Presence::Optional => return,
            Presence::Required => {
                report.add_at(field.name, codes::REQUIRED, "required");
                return;
            }
            Presence::Default(json) => {
                let value = serde_json::from_str(json).unwrap_or(Value::Null);
                fields.insert(field.name.to_owned(), value);
            }
        }
    }
    if let Some(value) = fields.get_mut(field.name) {
        report.within(field.name, |report| check(&field.schema, value, report));
    }
}

fn check_keys(items: &[Value], keys: &[&str], report: &mut Report) {
    if keys.is_empty() {
        return;
    }
    let key = |item: &Value| -> Vec<Value> {
        keys.iter()
            .map(|key| if key.is_empty() { item.clone() } else { item[*key].clone() })
            .collect()
    };
    for (index, item) in items.iter().enumerate() {
        let this = key(item);
        if this.iter().all(Value::is_null) {
            continue; // Reported as missing already.
        }
        if let Some(first) = items.iter().take(index).position(|other| key(other) == this) {
            let message = format!("given twice: the same as entry {first}");
            report.add_at(&format!("[{index}]"), codes::DUPLICATE, message);
        }
    }
}

fn check_word(words: &[&str], text: &str, report: &mut Report) {
    if words.contains(&text) {
        return;
    }
    report.add(codes::OUT_OF_RANGE, format!("{text:?} is none of {}", words.join(", ")));
    report.help(did_you_mean(text, words.iter().copied()));
}

fn at_most(count: usize, max: usize, what: &str, report: &mut Report) {
    if count > max {
        report.add(codes::OUT_OF_RANGE, format!("must have at most {max} {what}, has {count}"));
    }
}

impl Schema {
    fn noun(&self) -> &'static str {
        match self {
            Self::Object(_) | Self::Map { .. } => "an object",
            Self::List { .. } => "a list",
            Self::Text(_) | Self::Enum(_) => "text",
            Self::Integer { .. } | Self::Number(_) => "a number",
            Self::Boolean => "true or false",
            Self::Any => "anything",
        }
    }
}

fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static PORT: ObjectSchema = ObjectSchema {
        fields: &[
            required("name", Schema::Text(Format::Label)),
            defaulted("weight", "1", Schema::Integer { min: 0, max: 10 }),
            optional("mode", Schema::Enum(&["Fast", "Slow"])),
        ],
        rules: &[|value, report| {
            if value["mode"] == "Fast" && value["weight"] == 0 {
                report.add_at("weight", codes::CONTRADICTION, "must not be 0 when mode is Fast");
            }
        }],
    };
    static PORTS: Schema =
        Schema::List { item: &Schema::Object(&PORT), min: 1, max: 3, keys: &["name"] };

    fn problems(mut value: Value) -> Vec<String> {
        let mut report = Report::default();
        report.within("spec", |report| check(&PORTS, &mut value, report));
        let line = |problem: &Problem| {
            let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{} {}: {}{help}", problem.code, problem.field, problem.message)
        };
        report.problems.iter().map(line).collect()
    }

    #[test]
    fn everything_wrong_is_reported_with_its_place() {
        assert_eq!(
            problems(json!([{"name": "a", "wieght": 3}, {"weight": 11, "mode": "Fsat"}, "x"])),
            [
                "WL0002 spec[0].wieght: unknown field (did you mean weight?)",
                "WL0005 spec[1].name: required",
                "WL0040 spec[1].weight: must be from 0 to 10",
                "WL0040 spec[1].mode: \"Fsat\" is none of Fast, Slow (did you mean Fast?)",
                "WL0003 spec[2]: must be an object, is text",
            ]
        );
    }

    #[test]
    fn rules_run_when_the_fields_are_right() {
        assert_eq!(
            problems(json!([{"name": "a", "weight": 0, "mode": "Fast"}])),
            ["WL0042 spec[0].weight: must not be 0 when mode is Fast"]
        );
    }

    #[test]
    fn entries_with_one_key_are_given_twice() {
        assert_eq!(
            problems(json!([{"name": "a"}, {"name": "b"}, {"name": "a"}])),
            ["WL0044 spec[2]: given twice: the same as entry 0"]
        );
        assert_eq!(problems(json!([])), ["WL0040 spec: must have at least 1 entries"]);
    }

    #[test]
    fn defaults_are_filled_in_and_nulls_dropped() {
        let mut value = json!([{"name": "a", "mode": null}]);
        check(&PORTS, &mut value, &mut Report::default());
        assert_eq!(value, json!([{"name": "a", "weight": 1}]));
    }
}
