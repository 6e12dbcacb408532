//! Which encoding a client likes best (RFC 9110 section 12.5.3).

/// What stands for the bytes as they are.
const IDENTITY: &str = "identity";

/// The encoding among `offers` that `accepted` likes best; none where that is none. Of several it
/// likes as well it is the one it names first, or with `prefers_first` the one offered first.
pub(super) fn choose(
    accepted: &str,
    offers: &[&'static str],
    prefers_first: bool,
) -> Option<&'static str> {
    let likes: Vec<(&str, u16)> = accepted.split(',').filter_map(like).collect();
    let is_named = |offer: &str| likes.iter().any(|(name, _)| name.eq_ignore_ascii_case(offer));
    let mut best: Option<(&'static str, u16, usize)> = None;
    for (name, weight) in &likes {
        let place = match *name {
            "*" => offers.iter().position(|offer| !is_named(offer)),
            name => offers.iter().position(|offer| offer.eq_ignore_ascii_case(name)),
        };
        let (encoding, place) = match place {
            Some(place) => (offers[place], place),
            None if name.eq_ignore_ascii_case(IDENTITY) => (IDENTITY, usize::MAX),
            None => continue,
        };
        let is_better = best.is_none_or(|(_, known, first)| {
            *weight > known || (*weight == known && prefers_first && place < first)
        });
        if *weight > 0 && is_better {
            best = Some((encoding, *weight, place));
        }
    }
    best.map(|(encoding, _, _)| encoding).filter(|encoding| *encoding != IDENTITY)
}

/// An encoding and its weight in thousandths; none where the weight is no weight.
fn like(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(weight) = weight else { return Some((name, 1000)) };
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    let digits: String = part.chars().chain("000".chars()).take(3).collect();
    let thousandths = whole.parse::<u16>().ok()?.checked_mul(1000)? + digits.parse::<u16>().ok()?;
    (thousandths <= 1000).then_some((name, thousandths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_encoding_on_offer_is_chosen() {
        let offers = ["gzip", "br", "zstd"];
        for (accepted, want) in [
            ("gzip", Some("gzip")),
            ("br, gzip", Some("br")),
            ("gzip;q=0.5, br;q=0.8", Some("br")),
            ("deflate, GZIP", Some("gzip")),
            ("deflate", None),
            ("", None),
            ("gzip;q=0", None),
            ("*", Some("gzip")),
            ("gzip;q=0, *", Some("br")),
            ("*;q=0", None),
            ("identity, gzip;q=0.5", None),
            ("gzip;q=1, identity", Some("gzip")),
            ("gzip;q=2", None),
            ("gzip; q=0.001", Some("gzip")),
        ] {
            assert_eq!(choose(accepted, &offers, false), want, "{accepted}");
        }
        assert_eq!(choose("br, gzip", &offers, true), Some("gzip"));
        assert_eq!(choose("br, gzip;q=0.9", &offers, true), Some("br"));
    }
}
