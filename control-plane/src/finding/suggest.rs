//! "Did you mean": the known word that a misspelled one was meant to be.

/// The furthest that a word may be from what was meant, in edits.
const EDITS_MAX: usize = 2;
/// Words that begin alike by so many characters are meant alike too.
const PREFIX_MIN: usize = 4;

/// The word of `known` that `word` was most likely meant to be.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|candidate| *candidate != word)
        .filter_map(|candidate| Some((rank(word, candidate)?, candidate)))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The question that goes with a finding.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    suggest(word, known).map(|candidate| format!("did you mean {candidate}?"))
}

/// Lower is closer; none is too far.
fn rank(word: &str, candidate: &str) -> Option<usize> {
    let distance = edits(&word.to_lowercase(), &candidate.to_lowercase());
    // A word of three letters is two edits from half the dictionary.
    if distance <= EDITS_MAX && distance < word.chars().count().min(candidate.chars().count()) {
        return Some(distance);
    }
    let shared = word.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count();
    (shared >= PREFIX_MIN).then_some(EDITS_MAX + distance)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_suggested() {
        let known = ["name", "namespace", "weight", "port", "filters"];
        assert_eq!(suggest("wieght", known), Some("weight"));
        assert_eq!(suggest("nam", known), Some("name"));
        assert_eq!(suggest("namespaces", known), Some("namespace"));
        assert_eq!(suggest("filtersList", known), Some("filters"));
        assert_eq!(suggest("colour", known), None);
        assert_eq!(suggest("ab", ["cd"]), None);
    }
}
