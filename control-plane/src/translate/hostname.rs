//! Hostnames with wildcards: which covers which, and what two have in common. `*` is every name.

/// Every name.
pub(super) const ANY: &str = "*";

/// Whether every name of `narrow` is one of `wide`. `*.a` stands for any labels before `.a`.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => wide == narrow || (narrow.ends_with(suffix) && narrow.len() > suffix.len()),
        None => wide == narrow,
    }
}

/// The names that both stand for; wildcards only ever lie within one another.
pub(super) fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// What the names of a listener and of a route have in common; a route without names takes all.
pub(super) fn common(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.to_owned()];
    }
    let mut names: Vec<String> =
        route.iter().filter_map(|name| intersection(listener, name)).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_any_labels_to_the_left() {
        for (wide, narrow, holds) in [
            ("*", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", true),
            ("*.example", "*.a.example", true),
            ("*.example", "example", false),
            ("*.example", "*", false),
            ("*.a.example", "*.example", false),
            ("a.example", "a.example", true),
            ("a.example", "*.example", false),
            ("*.example", "aexample", false),
        ] {
            assert_eq!(covers(wide, narrow), holds, "{wide} {narrow}");
        }
    }

    #[test]
    fn common_names_are_the_narrower_ones() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let route = names(&["a.example", "*.b.example", "other.test"]);
        assert_eq!(common("*.example", &route), names(&["*.b.example", "a.example"]));
        assert_eq!(common("c.b.example", &route), names(&["c.b.example"]));
        assert_eq!(common("x.test", &route), names(&[]));
        assert_eq!(common("*.example", &[]), names(&["*.example"]));
        assert_eq!(common("*", &route), names(&["*.b.example", "a.example", "other.test"]));
    }
}
