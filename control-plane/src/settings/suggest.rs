//! "Did you mean": the known name that an unknown one was probably meant to be.

/// The closest of the known names: at most two edits away, or with the first four letters in common.
pub fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, name)| {
            let shares_prefix = wrong.len() >= 4 && wrong.get(..4) == name.get(..4);
            (*distance <= 2 && *distance < name.chars().count().max(2)) || shares_prefix
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be inserted, removed or replaced to make one of the other, case aside.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        if let Some(first) = row.first_mut() {
            *first = previous;
        }
        for (cell, right) in row.iter_mut().skip(1).zip(&b) {
            let changed = diagonal + usize::from(left != *right);
            diagonal = *cell;
            previous = changed.min(diagonal + 1).min(previous + 1);
            *cell = previous;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_edits_or_a_shared_prefix_are_close_enough() {
        let known = ["checkout-v1", "checkout-v2", "cart"];
        assert_eq!(did_you_mean("chekout-v2", known), Some("checkout-v2"));
        assert_eq!(did_you_mean("checkout", known), Some("checkout-v1"));
        assert_eq!(did_you_mean("Cart", known), Some("cart"));
        assert_eq!(did_you_mean("search", known), None);
        assert_eq!(did_you_mean("x", ["ab"]), None);
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("a", "A", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
