//! Whether a text is the one asked for (Envoy's `StringMatcher`).

pub mod cidr;
pub(crate) mod compile;
pub mod hash;
pub mod header;
pub mod metadata;
pub mod query;
pub mod regex;
pub mod uri_template;

use self::regex::Regex;

/// How a text is compared (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

/// What it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// All of it.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
    /// Any part of it.
    Contains(Box<str>),
    /// All of it, by a regular expression; `ignore_case` does not apply.
    Regex(Regex),
}

impl StringMatcher {
    /// A matcher; `ignore_case` means ASCII case.
    pub fn new(pattern: Pattern, ignore_case: bool) -> Self {
        Self { pattern, ignore_case }
    }

    /// Whether the text is the one asked for.
    pub fn matches(&self, value: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| {
            if self.ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
        };
        match &self.pattern {
            Pattern::Exact(text) => same(value, text.as_bytes()),
            Pattern::Prefix(text) => {
                value.get(..text.len()).is_some_and(|start| same(start, text.as_bytes()))
            }
            Pattern::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|at| same(&value[at..], text.as_bytes())),
            Pattern::Contains(text) => {
                text.is_empty() || value.windows(text.len()).any(|part| same(part, text.as_bytes()))
            }
            Pattern::Regex(regex) => regex.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_compares_its_part_of_the_text() {
        type Make = fn(Box<str>) -> Pattern;
        for (make, pattern, yes, no) in [
            (Pattern::Exact as Make, "ab", &["ab"][..], &["a", "abc", "AB", ""][..]),
            (Pattern::Prefix, "ab", &["ab", "abc"], &["a", "cab", "ABc"]),
            (Pattern::Suffix, "ab", &["ab", "cab"], &["b", "abc", "cAB"]),
            (Pattern::Contains, "ab", &["ab", "cabd"], &["a", "acb", "cABd"]),
        ] {
            let matcher = StringMatcher::new(make(pattern.into()), false);
            let blind = StringMatcher::new(make(pattern.into()), true);
            for text in yes {
                assert!(matcher.matches(text.as_bytes()), "{pattern} {text}");
                assert!(blind.matches(text.to_uppercase().as_bytes()), "{pattern} {text}");
            }
            for text in no {
                assert!(!matcher.matches(text.as_bytes()), "{pattern} {text}");
            }
        }
    }
}
