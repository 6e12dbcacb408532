//! A radix tree of prefixes, flat in memory, that is walked without allocating.

/// Prefixes and the numbers under each.
#[derive(Debug, Default)]
pub(crate) struct PrefixTree {
    nodes: Box<[Node]>,
    /// The first byte of each node's label, beside the nodes so that a search among siblings reads
    /// one line of memory.
    first_bytes: Box<[u8]>,
    labels: Box<[u8]>,
    numbers: Box<[u32]>,
}

/// A stretch of text, and what begins with it. Children lie side by side, ordered by first byte.
#[derive(Debug, Clone, Copy)]
struct Node {
    label: Range,
    children: Range,
    numbers: Range,
    /// The closest ancestor with numbers.
    above: u32,
    /// The lowest number here or above.
    lowest: u32,
}

/// Half-open, in 32 bits.
#[derive(Debug, Clone, Copy, Default)]
struct Range {
    start: u32,
    end: u32,
}

const NONE: u32 = u32::MAX;

impl Range {
    fn of(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A place or a count in 32 bits; nothing here comes near the bound.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(NONE)
}

/// A node to be: its keys, how much of them is said above it, and the closest ancestor with numbers.
#[derive(Default)]
struct Pending {
    keys: std::ops::Range<usize>,
    depth: usize,
    above: u32,
    lowest: u32,
}

impl PrefixTree {
    /// A tree of prefixes, each with a number; several may have the same prefix.
    pub(crate) fn new(mut keys: Vec<(&str, u32)>) -> Self {
        keys.sort_unstable();
        let mut nodes = Vec::with_capacity(keys.len());
        let (mut first_bytes, mut labels, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        let mut pending = Vec::with_capacity(keys.len());
        if !keys.is_empty() {
            pending.push(Pending { keys: 0..keys.len(), depth: 0, above: NONE, lowest: NONE });
        }
        let mut index = 0;
        while let Some(Pending { keys: range, depth, mut above, mut lowest }) =
            pending.get_mut(index).map(std::mem::take)
        {
            let under = &keys[range.clone()];
            let depth_here = common_length(under);
            let first_key = under.first().map_or("", |(key, _)| key).as_bytes();
            let label = &first_key[depth..depth_here];
            first_bytes.push(label.first().copied().unwrap_or(0));
            let label = append(&mut labels, label);
            let mut rest = range.start;
            let mut own = Range::default();
            if first_key.len() == depth_here {
                let start = narrow(numbers.len());
                let here = under.iter().take_while(|(key, _)| key.len() == depth_here);
                numbers.extend(here.map(|(_, number)| *number));
                own = Range { start, end: narrow(numbers.len()) };
                lowest = lowest.min(under.first().map_or(NONE, |(_, number)| *number));
                rest += own.of().len();
            }
            nodes.push(Node { label, children: Range::default(), numbers: own, above, lowest });
            if own.start != own.end {
                above = narrow(index);
            }
            let start = narrow(pending.len());
            for child in groups(&keys, rest..range.end, depth_here) {
                pending.push(Pending { keys: child, depth: depth_here, above, lowest });
            }
            nodes[index].children = Range { start, end: narrow(pending.len()) };
            index += 1;
        }
        Self {
            nodes: nodes.into(),
            first_bytes: first_bytes.into(),
            labels: labels.into(),
            numbers: numbers.into(),
        }
    }

    /// Whether there is no prefix at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The lowest number below `best` that lies under a prefix of `path` and matches, else `best`.
    pub(crate) fn find(
        &self,
        path: &str,
        mut best: u32,
        matches: &mut impl FnMut(u32) -> bool,
    ) -> u32 {
        let mut place = self.deepest(path.as_bytes());
        while let Some(node) = self.nodes.get(place as usize)
            && node.lowest < best
        {
            best = first(&self.numbers[node.numbers.of()], best, matches);
            place = node.above;
        }
        best
    }

    /// The deepest node with numbers whose text `path` begins with.
    fn deepest(&self, mut path: &[u8]) -> u32 {
        let mut deepest = NONE;
        let mut place = 0;
        while let Some(node) = self.nodes.get(place as usize)
            && let Some(rest) = path.strip_prefix(&self.labels[node.label.of()])
        {
            if node.numbers.start != node.numbers.end {
                deepest = place;
            }
            let siblings = &self.first_bytes[node.children.of()];
            let Some(Ok(child)) = rest.first().map(|byte| siblings.binary_search(byte)) else {
                break;
            };
            place = node.children.start + narrow(child);
            path = rest;
        }
        deepest
    }
}

/// The first of `numbers` below `best` that matches, else `best`.
pub(super) fn first(numbers: &[u32], best: u32, matches: &mut impl FnMut(u32) -> bool) -> u32 {
    numbers
        .iter()
        .copied()
        .take_while(|number| *number < best)
        .find(|number| matches(*number))
        .unwrap_or(best)
}

fn append<T: Copy>(all: &mut Vec<T>, some: &[T]) -> Range {
    let start = narrow(all.len());
    all.extend_from_slice(some);
    Range { start, end: narrow(all.len()) }
}

/// How much all keys of an ordered list have in common: as much as the first and the last.
fn common_length(keys: &[(&str, u32)]) -> usize {
    let (Some((first, _)), Some((last, _))) = (keys.first(), keys.last()) else { return 0 };
    first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count()
}

/// Runs of keys with the same byte at `depth`.
fn groups(
    keys: &[(&str, u32)],
    range: std::ops::Range<usize>,
    depth: usize,
) -> Vec<std::ops::Range<usize>> {
    let mut start = range.start;
    keys[range]
        .chunk_by(|(a, _), (b, _)| a.as_bytes().get(depth) == b.as_bytes().get(depth))
        .map(|run| {
            let group = start..start + run.len();
            start = group.end;
            group
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keys: &[&'static str], path: &str) -> Vec<u32> {
        let keys = keys.iter().zip(0..).map(|(key, number)| (*key, number)).collect();
        let tree = PrefixTree::new(keys);
        let mut seen = Vec::new();
        tree.find(path, NONE, &mut |number| {
            seen.push(number);
            false
        });
        seen.sort_unstable();
        seen
    }

    #[test]
    fn every_prefix_of_the_path_is_found_and_no_other() {
        let keys = ["/", "/a", "/ab", "/abc/", "", "/b", "/abd", "/é", "/è"];
        for (path, want) in [
            ("/abc/d", &[0, 1, 2, 3, 4][..]),
            ("/abd", &[0, 1, 2, 4, 6]),
            ("/ac", &[0, 1, 4]),
            ("/c", &[0, 4]),
            ("", &[4]),
            ("/é/x", &[0, 4, 7]),
        ] {
            assert_eq!(all(&keys, path), want, "{path}");
        }
        assert_eq!(all(&[], "/"), [0; 0]);
    }

    #[test]
    fn many_prefixes_agree_with_a_plain_search() {
        let keys: Vec<String> = (0..2000_u32).map(|n| format!("/s{:x}", n * 7 % 1000)).collect();
        let keys: Vec<&'static str> =
            keys.into_iter().map(|key| &*Box::leak(key.into_boxed_str())).collect();
        let unique: Vec<_> =
            keys.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        for path in ["/s1a2/x", "/s3e7", "/s0", "/t", "/s"] {
            let want: Vec<u32> = (0..)
                .zip(&unique)
                .filter(|(_, key)| path.starts_with(**key))
                .map(|(number, _)| number)
                .collect();
            assert_eq!(all(&unique, path), want, "{path}");
        }
    }
}
