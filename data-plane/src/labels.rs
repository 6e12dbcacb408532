//! What subsets go by: metadata under `envoy.lb`, which endpoints have and routes ask for.

use std::collections::BTreeMap;

/// One value, in a form in which equal values are equal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    text: Box<str>,
    /// The elements, where it is a list.
    items: Option<Box<[Box<str>]>>,
}

impl Label {
    /// A value by its canonical text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self { text: text.into(), items: None }
    }

    /// A list by its canonical text and those of its elements.
    pub fn list(text: impl Into<Box<str>>, items: Box<[Box<str>]>) -> Self {
        Self { text: text.into(), items: Some(items) }
    }

    /// The canonical texts that it counts as: of a list its elements, where a list means any of
    /// them (`list_as_any`).
    fn texts(&self, list_as_any: bool) -> Vec<&str> {
        match &self.items {
            Some(items) if list_as_any => items.iter().map(|item| &**item).collect(),
            _ => vec![&self.text],
        }
    }
}

/// Values by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    by_name: BTreeMap<Box<str>, Label>,
    /// All values in the order of their names, as one text.
    key: Box<str>,
    /// What the endpoint is hashed as, instead of its address (`hash_key`).
    hash_key: Option<Box<str>>,
}

/// Ends each value in a key; no canonical text has it.
const END: char = '\0';

impl Labels {
    /// Values by name, and the plain text of `hash_key` if there is one.
    pub fn new(by_name: BTreeMap<Box<str>, Label>, hash_key: Option<Box<str>>) -> Self {
        let key = by_name.values().flat_map(|label| [&*label.text, "\0"]).collect::<String>();
        Self { by_name, key: key.into(), hash_key }
    }

    /// These and those of `more`, which win.
    #[must_use]
    pub fn overlaid(&self, more: &Self) -> Self {
        let mut by_name = self.by_name.clone();
        by_name.extend(more.by_name.iter().map(|(name, label)| (name.clone(), label.clone())));
        Self::new(by_name, None)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// What to hash instead of the address.
    pub(crate) fn hash_key(&self) -> Option<&str> {
        self.hash_key.as_deref()
    }

    /// Whether the names are exactly these, which are sorted.
    pub(crate) fn are_named(&self, names: &[Box<str>]) -> bool {
        self.by_name.len() == names.len() && self.by_name.keys().eq(names)
    }

    /// All values as one text.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The values of these names as one text; `None` when one has none.
    pub(crate) fn key_of(&self, names: &[Box<str>]) -> Option<Box<str>> {
        self.keys_of(names, false).pop()
    }

    /// As [`Self::key_of`]; several where a list counts as any of its elements.
    pub(crate) fn keys_of(&self, names: &[Box<str>], list_as_any: bool) -> Vec<Box<str>> {
        let mut keys = vec![String::new()];
        for name in names {
            let Some(label) = self.by_name.get(name) else { return Vec::new() };
            let texts = label.texts(list_as_any);
            keys = keys
                .iter()
                .flat_map(|key| texts.iter().map(move |text| format!("{key}{text}{END}")))
                .collect();
        }
        keys.into_iter().map(String::into_boxed_str).collect()
    }

    /// Whether every value of `wanted` is among these.
    pub(crate) fn include(&self, wanted: &Self, list_as_any: bool) -> bool {
        wanted.by_name.iter().all(|(name, label)| {
            self.by_name.get(name).is_some_and(|own| own.texts(list_as_any).contains(&&*label.text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[(&str, &str)]) -> Labels {
        let by_name = values.iter().map(|(name, text)| ((*name).into(), Label::new(*text)));
        Labels::new(by_name.collect(), None)
    }

    fn names(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_key_is_the_same_however_it_was_come_by() {
        let asked = labels(&[("stage", "prod"), ("version", "1")]);
        let host = labels(&[("version", "1"), ("zone", "z"), ("stage", "prod")]);
        let selector = names(&["stage", "version"]);
        assert!(asked.are_named(&selector) && !host.are_named(&selector));
        assert_eq!(host.key_of(&selector).as_deref(), Some(asked.key()));
        assert_eq!(host.key_of(&names(&["stage", "absent"])), None);
    }

    #[test]
    fn values_do_not_run_into_each_other() {
        let (one, other) = (labels(&[("a", "x"), ("b", "yz")]), labels(&[("a", "xy"), ("b", "z")]));
        assert_ne!(one.key(), other.key());
    }

    #[test]
    fn a_list_is_any_of_its_elements_only_where_asked() {
        let list = Label::list("[1,2]", ["1".into(), "2".into()].into());
        let host = Labels::new([("v".into(), list)].into(), None);
        assert_eq!(host.keys_of(&names(&["v"]), true).len(), 2);
        assert!(host.include(&labels(&[("v", "2")]), true));
        assert!(!host.include(&labels(&[("v", "2")]), false));
        assert!(host.include(&labels(&[]), false));
    }

    #[test]
    fn what_is_laid_over_wins() {
        let both = labels(&[("a", "1"), ("b", "1")]).overlaid(&labels(&[("b", "2"), ("c", "2")]));
        assert_eq!(both, labels(&[("a", "1"), ("b", "2"), ("c", "2")]));
    }
}
