//! Tables that a hash leads to an endpoint by: the ring (ketama) and Maglev, laid out as in Envoy,
//! so that both send a request to the same endpoint.

use std::sync::Arc;

use twox_hash::XxHash64;

use crate::cluster::endpoints::Endpoint;

/// Envoy's seed of `MURMUR_HASH_2`.
const MURMUR_SEED: u64 = 0xc70f_6907;

/// The function that places endpoints on a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// `XX_HASH`.
    Xx,
    /// `MURMUR_HASH_2`, which is that of libstdc++.
    Murmur2,
}

/// How a table is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableConfig {
    /// Points on a ring; a hash goes to the next one.
    Ring {
        /// At least so many points. Envoy's default is 1024.
        size_min: u64,
        /// At most so many. Envoy's default and limit is 8 Mi.
        size_max: u64,
        /// What places them.
        function: HashFunction,
    },
    /// A table that each endpoint fills in an order of its own.
    Maglev {
        /// Entries, a prime. Envoy's default is 65537.
        size: u32,
    },
}

/// A table over endpoints. Built once for a version of a cluster, shared by all workers.
#[derive(Debug)]
pub(super) struct Table {
    layout: Layout,
    endpoints: Box<[Arc<Endpoint>]>,
}

#[derive(Debug)]
enum Layout {
    Ring(Box<[(u64, u32)]>),
    Maglev(Box<[u32]>),
}

/// An endpoint, what it is hashed as, and its part of all traffic.
pub(super) struct Seat {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) share: f64,
}

/// What an endpoint is hashed as.
fn key(endpoint: &Endpoint, by_hostname: bool) -> &str {
    let named = Some(&*endpoint.config.hostname).filter(|name| by_hostname && !name.is_empty());
    endpoint.config.labels.hash_key().or(named).unwrap_or(&endpoint.label)
}

impl Table {
    /// Lays out endpoints; their shares add up to 1.
    pub(super) fn new(config: TableConfig, by_hostname: bool, mut seats: Vec<Seat>) -> Self {
        if let TableConfig::Maglev { .. } = config {
            // The table depends on the order, which must not depend on how endpoints came.
            seats.sort_by(|a, b| key(&a.endpoint, by_hostname).cmp(key(&b.endpoint, by_hostname)));
        }
        let keyed: Vec<_> =
            seats.iter().map(|seat| (key(&seat.endpoint, by_hostname), seat.share)).collect();
        let layout = match config {
            TableConfig::Ring { size_min, size_max, function } => {
                Layout::Ring(ring(&keyed, (size_min, size_max), function))
            }
            TableConfig::Maglev { size } => Layout::Maglev(maglev(&keyed, size)),
        };
        Self { layout, endpoints: seats.into_iter().map(|seat| seat.endpoint).collect() }
    }

    /// The endpoint of a hash; another one for each further attempt, if luck has it.
    pub(super) fn pick(&self, hash: u64, attempt: u32) -> Option<&Arc<Endpoint>> {
        let index = match &self.layout {
            Layout::Ring(points) => {
                let at = points.partition_point(|(point, _)| *point < hash);
                let at = if at == points.len() { 0 } else { at };
                points.get((at + attempt as usize).checked_rem(points.len())?)?.1
            }
            Layout::Maglev(table) => {
                let hash =
                    if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt) + 1) };
                *table.get(usize::try_from(hash % table.len().max(1) as u64).ok()?)?
            }
        };
        self.endpoints.get(index as usize)
    }
}

fn ring(
    keyed: &[(&str, f64)],
    (min, max): (u64, u64),
    function: HashFunction,
) -> Box<[(u64, u32)]> {
    let least = keyed.iter().map(|(_, share)| *share).fold(1.0, f64::min);
    // The lightest endpoint gets a whole number of points, as long as all fit.
    let scale = ((least * min as f64).ceil() / least).min(max as f64);
    let (mut points, mut target) = (Vec::new(), 0.0);
    for (index, (key, share)) in (0..).zip(keyed) {
        target += scale * share;
        let mut number = 0_u64;
        while (points.len() as f64) < target {
            let text = format!("{key}_{number}");
            let hash = match function {
                HashFunction::Xx => XxHash64::oneshot(0, text.as_bytes()),
                HashFunction::Murmur2 => murmur2(text.as_bytes(), MURMUR_SEED),
            };
            points.push((hash, index));
            number += 1;
        }
    }
    points.sort_unstable();
    points.into()
}

fn maglev(keyed: &[(&str, f64)], size: u32) -> Box<[u32]> {
    const EMPTY: u32 = u32::MAX;
    if keyed.is_empty() {
        return Box::default();
    }
    let size = u64::from(size);
    let most = keyed.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let mut table = vec![EMPTY; size as usize];
    // Offset and step of each endpoint's permutation, how far it came, and its due weight.
    let mut fillers: Vec<_> = keyed
        .iter()
        .map(|(key, _)| {
            let (one, two) =
                (XxHash64::oneshot(0, key.as_bytes()), XxHash64::oneshot(1, key.as_bytes()));
            (one % size, two % (size - 1) + 1, 0.0)
        })
        .collect();
    let (mut filled, mut round) = (0, 0.0);
    while filled < size {
        round += 1.0;
        for (index, ((at, step, due), (_, share))) in (0..).zip(fillers.iter_mut().zip(keyed)) {
            if filled == size || round * share < *due {
                continue;
            }
            *due += most;
            while table[*at as usize] != EMPTY {
                *at = (*at + *step) % size;
            }
            table[*at as usize] = index;
            filled += 1;
        }
    }
    table.into()
}

/// MurmurHash2 of 64 bits, as libstdc++ has it.
fn murmur2(text: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = seed ^ (text.len() as u64).wrapping_mul(FACTOR);
    let (blocks, rest) = text.as_chunks::<8>();
    for block in blocks {
        let data = mix(u64::from_le_bytes(*block).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let data = rest.iter().rev().fold(0, |data, byte| data << 8 | u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur_hashes_as_in_envoy() {
        for (text, hash) in [
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("foo\nbar", 16_306_510_975_912_980_159),
            ("lyft", 12_847_078_931_730_529_320),
            ("", 6_142_509_188_972_423_790),
        ] {
            assert_eq!(murmur2(text.as_bytes(), MURMUR_SEED), hash, "{text:?}");
        }
    }

    #[test]
    fn a_ring_has_points_by_share_and_no_more_than_fit() {
        let count = |keyed: &[(&str, f64)], sizes| {
            let ring = ring(keyed, sizes, HashFunction::Xx);
            assert!(ring.is_sorted());
            (0..)
                .zip(keyed)
                .map(|(n, _)| ring.iter().filter(|p| p.1 == n).count())
                .collect::<Vec<_>>()
        };
        assert_eq!(count(&[("a", 0.5), ("b", 0.5)], (3, 100)), [2, 2]);
        assert_eq!(count(&[("a", 0.75), ("b", 0.25)], (8, 100)), [6, 2]);
        assert_eq!(count(&[("a", 0.75), ("b", 0.25)], (8, 4)), [3, 1]);
        assert!(count(&[], (8, 100)).is_empty());
    }

    #[test]
    fn a_maglev_table_is_filled_by_share_and_moves_little() {
        let count = |table: &[u32], index| table.iter().filter(|entry| **entry == index).count();
        let three = maglev(&[("a", 0.5), ("b", 0.25), ("c", 0.25)], 1021);
        assert_eq!([0, 1, 2].map(|n| count(&three, n)), [510, 256, 255]);
        let all = maglev(&[("a", 1.0 / 3.0), ("b", 1.0 / 3.0), ("c", 1.0 / 3.0)], 1021);
        let without = maglev(&[("a", 0.5), ("b", 0.5)], 1021);
        let moved = all.iter().zip(&without).filter(|(all, now)| **all != 2 && all != now).count();
        assert!(moved < 1021 / 10, "{moved}");
        assert!(maglev(&[], 1021).is_empty());
    }
}
