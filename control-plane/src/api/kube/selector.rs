//! Which objects a list or a watch is about: labels, and the two fields that can be asked for.

use serde_json::Value;

/// What an object must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Field, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In { label: String, values: Vec<String>, negated: bool },
    Exists { label: String, negated: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
}

impl Selector {
    /// From the two query parameters.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        let labels = split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = split(fields).into_iter().map(field).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether an object is like that.
    pub fn matches(&self, object: &Value) -> bool {
        let metadata = object.get("metadata");
        let part = |name: &str| metadata.and_then(|metadata| metadata.get(name));
        let text = |name: &str| part(name).and_then(Value::as_str).unwrap_or_default();
        let label = |name: &str| part("labels")?.get(name)?.as_str();
        self.fields.iter().all(|(field, negated, value)| {
            let is = match field {
                Field::Name => text("name"),
                Field::Namespace => text("namespace"),
            };
            (is == value) != *negated
        }) && self.labels.iter().all(|requirement| match requirement {
            Requirement::Exists { label: name, negated } => label(name).is_some() != *negated,
            // An object without the label fulfils `!=` and `notin`, as in Kubernetes.
            Requirement::In { label: name, values, negated } => {
                label(name).is_some_and(|is| values.iter().any(|value| value == is)) != *negated
            }
        })
    }
}

/// The terms between commas that stand in no parenthesis.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let terms = text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    terms.map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let wrong = || format!("unable to parse the label selector {term:?}");
    let name = |text: &str| {
        let text = text.trim();
        let is_name = !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        is_name.then(|| text.to_owned()).ok_or_else(wrong)
    };
    if let Some(open) = term.find('(') {
        let values = term.get(open + 1..).and_then(|rest| rest.strip_suffix(')'));
        let values = values.ok_or_else(wrong)?.split(',').map(|value| value.trim().to_owned());
        let head = term.get(..open).unwrap_or_default().trim_end();
        let (label, negated) = match (head.strip_suffix(" notin"), head.strip_suffix(" in")) {
            (Some(label), _) => (label, true),
            (None, Some(label)) => (label, false),
            (None, None) => return Err(wrong()),
        };
        return Ok(Requirement::In { label: name(label)?, values: values.collect(), negated });
    }
    let pair = |separator, negated| {
        term.split_once(separator).map(|(label, value): (&str, &str)| {
            let values = vec![value.trim().to_owned()];
            Ok(Requirement::In { label: name(label)?, values, negated })
        })
    };
    if let Some(found) = pair("!=", true).or_else(|| pair("==", false)).or_else(|| pair("=", false))
    {
        return found;
    }
    match term.strip_prefix('!') {
        Some(label) => Ok(Requirement::Exists { label: name(label)?, negated: true }),
        None => Ok(Requirement::Exists { label: name(term)?, negated: false }),
    }
}

fn field(term: &str) -> Result<(Field, bool, String), String> {
    let (name, negated, value) = if let Some((name, value)) = term.split_once("!=") {
        (name, true, value)
    } else {
        let (name, value) = term
            .split_once("==")
            .or_else(|| term.split_once('='))
            .ok_or_else(|| format!("unable to parse the field selector {term:?}"))?;
        (name, false, value)
    };
    let field = match name.trim() {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        other => return Err(format!("field label not supported: {other}")),
    };
    Ok((field, negated, value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_select_as_in_kubernetes() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "shop", "tier": "1"}}});
        for (text, expected) in [
            ("", true),
            ("app=shop", true),
            ("app==shop,tier!=2", true),
            ("app in (x, shop),tier", true),
            ("app notin (x,shop)", false),
            ("other notin (x)", true),
            ("other!=x,!other", true),
            ("!app", false),
            ("other", false),
        ] {
            assert_eq!(Selector::parse(text, "").unwrap().matches(&object), expected, "{text}");
        }
        for wrong in ["a b", "app in (x", "app of (x)", "=x"] {
            assert!(Selector::parse(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_fields_can_be_asked_for() {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}});
        let matches = |text| Selector::parse("", text).map(|s| s.matches(&object));
        assert_eq!(matches("metadata.name=a,metadata.namespace!=m"), Ok(true));
        assert_eq!(matches("metadata.name=b"), Ok(false));
        assert!(matches("spec.x=1").is_err());
    }
}
