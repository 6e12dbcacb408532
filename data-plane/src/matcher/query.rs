//! Whether a query parameter is the one asked for (`envoy.config.route.v3.QueryParameterMatcher`).

use super::StringMatcher;

/// A condition on one query parameter.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    name: Box<str>,
    test: QueryTest,
}

/// What is asked of the value (`query_parameter_match_specifier`).
#[derive(Debug, Clone)]
pub enum QueryTest {
    /// Whether there is one, or is none (`present_match`).
    Present(bool),
    /// The text of it, as it stands in the path: Envoy decodes nothing here.
    Text(StringMatcher),
}

impl QueryMatcher {
    /// A condition; the name's case counts.
    pub fn new(name: &str, test: QueryTest) -> Self {
        Self { name: name.into(), test }
    }

    /// Whether the condition holds for the first parameter of that name.
    pub fn matches(&self, query: &str) -> bool {
        let value =
            parameters(query).find_map(|(name, value)| (name == &*self.name).then_some(value));
        match (&self.test, value) {
            (QueryTest::Present(present), value) => *present == value.is_some(),
            (QueryTest::Text(matcher), Some(value)) => matcher.matches(value.as_bytes()),
            (QueryTest::Text(_), None) => false,
        }
    }
}

/// The names and values of a query, as they stand in the path.
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    #[test]
    fn the_first_parameter_of_the_name_counts() {
        let exact =
            |text: &str| QueryTest::Text(StringMatcher::new(Pattern::Exact(text.into()), false));
        for (test, query, want) in [
            (exact("1"), "a=1", true),
            (exact("1"), "b=2&a=1&c", true),
            (exact("1"), "a=2&a=1", false),
            (exact("1"), "A=1", false),
            (exact("1"), "aa=1", false),
            (exact("1=2"), "a=1=2", true),
            (exact(""), "a", true),
            (exact("b"), "a=%62", false),
            (exact("1"), "b=1", false),
            (QueryTest::Present(true), "b&a", true),
            (QueryTest::Present(true), "", false),
            (QueryTest::Present(false), "b", true),
            (QueryTest::Present(false), "a=1", false),
        ] {
            let matcher = QueryMatcher::new("a", test);
            assert_eq!(matcher.matches(query), want, "{matcher:?} {query}");
        }
    }
}
