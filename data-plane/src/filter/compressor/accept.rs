//! Which encoding a client likes best (RFC 9110 section 12.5.3).

/// What stands for the bytes as they are.
const IDENTITY: &str = "identity";

/// An encoding, and whether it is chosen where others are liked as well.
type Offer = (&'static str, bool);

/// The encoding among `offers` that `accepted` likes best; none where that is none. Of several that
/// it likes as well it is the last named that is preferred, or else the one named first. `*` is the
/// first offer that is not refused, as in Envoy.
pub(super) fn choose(accepted: &str, offers: &[Offer]) -> Option<&'static str> {
    let likes: Vec<(&str, f32)> = accepted.split(',').filter_map(like).collect();
    let is_refused = |offer: &str| {
        likes.iter().any(|(name, weight)| *weight <= 0.0 && name.eq_ignore_ascii_case(offer))
    };
    let offers: Vec<_> = offers.iter().filter(|(offer, _)| !is_refused(offer)).collect();
    let mut best: Option<(&'static str, f32)> = None;
    for (name, weight) in &likes {
        let offer = match *name {
            "*" => offers.first().map(|(offer, _)| (*offer, false)),
            name if name.eq_ignore_ascii_case(IDENTITY) => Some((IDENTITY, false)),
            name => offers.iter().find(|(o, _)| o.eq_ignore_ascii_case(name)).map(|offer| **offer),
        };
        let Some((encoding, is_preferred)) = offer else { continue };
        let known = best.map_or(0.0, |(_, known)| known);
        if *weight > known || (*weight > 0.0 && *weight >= known && is_preferred) {
            best = Some((encoding, *weight));
        }
    }
    best.map(|(encoding, _)| encoding).filter(|encoding| *encoding != IDENTITY)
}

/// An encoding and its weight; none where the weight is no number.
fn like(text: &str) -> Option<(&str, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    match weight {
        None => Some((name, 1.0)),
        Some(weight) => {
            weight.parse().ok().filter(|weight: &f32| weight.is_finite()).map(|w| (name, w))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_encoding_on_offer_is_chosen() {
        let offers = [("gzip", false), ("br", false), ("zstd", false)];
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
            ("gzip;q=0.5, *", Some("gzip")),
            ("*;q=0", None),
            ("identity, gzip;q=0.5", None),
            ("gzip;q=1, identity", Some("gzip")),
            ("gzip;q=x", None),
            ("gzip;q=.5", Some("gzip")),
            ("gzip; q=0.001", Some("gzip")),
        ] {
            assert_eq!(choose(accepted, &offers), want, "{accepted}");
        }
    }

    #[test]
    fn an_offer_may_be_preferred_to_others_that_are_liked_as_well() {
        let offers = [("gzip", true), ("br", true), ("zstd", false)];
        for (accepted, want) in [
            ("gzip, br", Some("br")),
            ("br, gzip", Some("gzip")),
            ("br, zstd", Some("br")),
            ("zstd, gzip", Some("gzip")),
            ("br;q=0.9, gzip", Some("gzip")),
        ] {
            assert_eq!(choose(accepted, &offers), want, "{accepted}");
        }
    }
}
