//! Which resources of a refused response its error text is about.

use std::sync::Arc;

/// Which of `names` a NACK's text blames, and whether it says so. Where it names none, all of
/// them may be meant.
///
/// Envoy and our own proxy write `NAME: REASON`, one resource after the other; others quote the
/// name. A name that merely occurs in the prose (a cluster called `a`) is not blamed.
pub fn blamed(names: &[Arc<str>], text: &str) -> (Vec<Arc<str>>, bool) {
    if let [only] = names {
        return (vec![only.clone()], true);
    }
    let named: Vec<_> = names.iter().filter(|name| is_named(name, text)).cloned().collect();
    if named.is_empty() { (names.to_vec(), false) } else { (named, true) }
}

fn is_named(name: &str, text: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        let starts = before.is_none_or(|c| c.is_whitespace() || matches!(c, ',' | ';'));
        let is_quoted = before.is_some_and(|c| matches!(c, '"' | '\'' | '`')) && after == before;
        (starts && after == Some(':')) || is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_blames_whom_it_names() {
        let names: Vec<Arc<str>> = ["a", "b", "web/https"].map(Arc::from).to_vec();
        for (text, blamed_names, named) in [
            ("Error adding/updating cluster(s) a: no such type", vec!["a"], true),
            ("Error adding/updating cluster(s) a: bad, b: worse", vec!["a", "b"], true),
            ("web/https: virtual_hosts[2]: required", vec!["web/https"], true),
            ("a listener named \"b\" is a bad one", vec!["b"], true),
            ("a bad thing", vec!["a", "b", "web/https"], false),
            ("", vec!["a", "b", "web/https"], false),
        ] {
            let (found, is_named) = blamed(&names, text);
            let found: Vec<_> = found.iter().map(|name| &**name).collect();
            assert_eq!((found, is_named), (blamed_names, named), "{text}");
        }
    }

    #[test]
    fn the_only_resource_is_the_one() {
        let names: Vec<Arc<str>> = vec!["r".into()];
        assert_eq!(blamed(&names, "bad regex"), (names.clone(), true));
    }
}
