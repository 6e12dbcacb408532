//! Weights of a rule's backends: read, checked and put into the route, without any I/O.

use serde_json::Value;

use super::problem::{Exit, Problem};
use crate::finding::suggest::suggest;

/// The largest weight that the Gateway API allows.
const WEIGHT_MAX: u32 = 1_000_000;

/// Reads `stable=90,canary=10`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<Vec<(String, u32)>, Problem> {
    let mut weights: Vec<(String, u32)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let example = "write BACKEND=WEIGHT,…, for instance stable=90,canary=10";
        let (name, weight) =
            part.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Problem::usage(format!("{part:?} is no BACKEND=WEIGHT")).help(example)
            })?;
        let weight = weight.strip_suffix('%').unwrap_or(weight);
        let weight =
            weight.parse().ok().filter(|weight| *weight <= WEIGHT_MAX).ok_or_else(|| {
                Problem::new(Exit::WrongInput, "WL0040", "value out of range").detail(format!(
                    "weight of {name}: {weight:?} is no whole number from 0 to {WEIGHT_MAX}"
                ))
            })?;
        if weights.iter().any(|(known, _)| known == name) {
            return Err(Problem::usage(format!("{name} is given twice")));
        }
        weights.push((name.to_owned(), weight));
    }
    if weights.is_empty() {
        return Err(Problem::usage("no weights are given").help("for instance stable=90,canary=10"));
    }
    Ok(weights)
}

/// Puts the weights into a rule of the route, and says what share each backend has then.
///
/// # Errors
/// When the rule or a backend is unknown or ambiguous, or nobody would get traffic.
pub fn put(
    route: &mut Value,
    rule: Option<&str>,
    weights: &[(String, u32)],
) -> Result<String, Problem> {
    let position = position(route, rule, weights)?;
    let place = format!("rule {}", label(rules(route).get(position), position));
    let refs = backend_refs(route, position);
    let chosen = choose(refs, weights, &place)?;
    let mut shares = Vec::new();
    let mut unnamed = Vec::new();
    for (reference, weight) in refs.iter().zip(&chosen) {
        let present = weight_of(reference);
        match weight {
            Some(weight) => shares.push((name_of(reference), *weight)),
            None if present > 0 => unnamed.push(format!("{}={present}", name_of(reference))),
            None => shares.push((name_of(reference), 0)),
        }
    }
    if !unnamed.is_empty() {
        return Err(Problem::usage(format!("{place} has backends that are not named"))
            .detail(unnamed.join(", "))
            .help("name each backend that has traffic now; =0 takes it away"));
    }
    let total: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return Err(Problem::new(Exit::WrongInput, "WL0040", "value out of range")
            .detail(format!("{place}: all weights would be 0, and it would answer 500"))
            .help("give at least one backend a weight above 0"));
    }
    let told = shares.iter().map(|(name, weight)| format!("{name} {}", share(*weight, total)));
    let told = told.collect::<Vec<_>>().join(", ");
    let pointer = format!("/spec/rules/{position}/backendRefs");
    let refs = route.pointer_mut(&pointer).and_then(Value::as_array_mut);
    for (reference, weight) in refs.into_iter().flatten().zip(chosen) {
        if let (Some(object), Some(weight)) = (reference.as_object_mut(), weight) {
            object.insert("weight".into(), weight.into());
        }
    }
    Ok(told)
}

/// For each backend of the rule the weight that it gets, if it is named.
fn choose(
    refs: &[Value],
    weights: &[(String, u32)],
    place: &str,
) -> Result<Vec<Option<u32>>, Problem> {
    let mut chosen = vec![None; refs.len()];
    for (name, weight) in weights {
        let mut named = refs.iter().enumerate().filter(|(_, reference)| is_named(reference, name));
        let Some((position, _)) = named.next() else {
            return Err(unknown_backend(refs, name, place));
        };
        if named.next().is_some() {
            return Err(Problem::usage(format!("{place}: {name} stands there more than once"))
                .help(format!("tell them apart by port: {name}:8080={weight}")));
        }
        if let Some(place) = chosen.get_mut(position) {
            *place = Some(*weight);
        }
    }
    Ok(chosen)
}

fn unknown_backend(refs: &[Value], name: &str, place: &str) -> Problem {
    let names: Vec<&str> = refs.iter().map(name_of).collect();
    let problem = Problem::new(Exit::WrongInput, "WL0031", "backend does not exist")
        .detail(format!("{place} has no backend {name}; it has {}", names.join(", ")));
    match suggest(name, names.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean {meant}?")),
        None => problem.help("add it to the rule's backendRefs with weight 0, then shift"),
    }
}

/// The rule that is meant: the one that is named, or the only one that has these backends.
fn position(
    route: &Value,
    rule: Option<&str>,
    weights: &[(String, u32)],
) -> Result<usize, Problem> {
    let rules = rules(route);
    let labels: Vec<String> =
        rules.iter().enumerate().map(|(at, rule)| label(Some(rule), at)).collect();
    if let Some(wanted) = rule {
        let by_name = labels.iter().position(|label| label == wanted);
        let by_number = || wanted.parse().ok().filter(|at| *at < rules.len());
        return by_name.or_else(by_number).ok_or_else(|| {
            let problem = Problem::usage(format!("the route has no rule {wanted}"))
                .detail(format!("its rules: {}", labels.join(", ")));
            match suggest(wanted, labels.iter().map(String::as_str)) {
                Some(meant) => problem.help(format!("did you mean {meant}?")),
                None => problem,
            }
        });
    }
    let with_backends: Vec<usize> =
        (0..rules.len()).filter(|at| !backend_refs(route, *at).is_empty()).collect();
    if let [only] = with_backends.as_slice() {
        return Ok(*only);
    }
    let has_all = |at: &&usize| {
        let refs = backend_refs(route, **at);
        weights.iter().all(|(name, _)| refs.iter().any(|reference| is_named(reference, name)))
    };
    let fitting: Vec<&usize> = with_backends.iter().filter(has_all).collect();
    match fitting.as_slice() {
        [only] => Ok(**only),
        [] if with_backends.is_empty() => {
            Err(Problem::usage("the route has no rule with backends"))
        }
        _ => Err(Problem::usage("it is not clear which rule is meant")
            .detail(format!(
                "rules with backends: {}",
                with_backends
                    .iter()
                    .filter_map(|at| labels.get(*at))
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
            .help("name it with --rule")),
    }
}

fn rules(route: &Value) -> &[Value] {
    route.pointer("/spec/rules").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn backend_refs(route: &Value, rule: usize) -> &[Value] {
    rules(route)
        .get(rule)
        .and_then(|rule| rule.get("backendRefs"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The rule's name, or its number from 0.
fn label(rule: Option<&Value>, position: usize) -> String {
    rule.and_then(|rule| rule.get("name"))
        .and_then(Value::as_str)
        .map_or_else(|| position.to_string(), str::to_owned)
}

fn name_of(reference: &Value) -> &str {
    reference.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn weight_of(reference: &Value) -> u64 {
    reference.get("weight").and_then(Value::as_u64).unwrap_or(1)
}

/// `name`, `name:port` or `namespace/name`.
fn is_named(reference: &Value, wanted: &str) -> bool {
    let wanted = match wanted.split_once('/') {
        Some((namespace, name)) => {
            if reference.get("namespace").and_then(Value::as_str) != Some(namespace) {
                return false;
            }
            name
        }
        None => wanted,
    };
    let name = name_of(reference);
    match wanted.split_once(':') {
        Some((wanted, port)) => {
            let own = reference.get("port").and_then(Value::as_u64);
            wanted == name && own.map(|own| own.to_string()).as_deref() == Some(port)
        }
        None => wanted == name,
    }
}

/// `10%`, `33.33%`, `0.05%`.
fn share(weight: u32, total: u64) -> String {
    let hundredths = (u64::from(weight) * 10_000 + total / 2) / total.max(1);
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, rest) => format!("{whole}.{rest:02}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn route() -> Value {
        json!({"spec": {"rules": [
            {"name": "main", "backendRefs": [{"name": "stable", "weight": 1}, {"name": "canary", "weight": 0}]},
            {"matches": []},
        ]}})
    }

    fn shift(route: &mut Value, rule: Option<&str>, weights: &str) -> Result<String, Problem> {
        put(route, rule, &parse(weights)?)
    }

    #[test]
    fn weights_are_set_and_shares_told() {
        let mut route = route();
        let told = shift(&mut route, None, "stable=90, canary=10%").unwrap();
        assert_eq!(told, "stable 90%, canary 10%");
        let refs = route.pointer("/spec/rules/0/backendRefs").unwrap();
        assert_eq!(
            refs,
            &json!([{"name": "stable", "weight": 90}, {"name": "canary", "weight": 10}])
        );
        assert_eq!(
            shift(&mut route, None, "stable=2,canary=1").unwrap(),
            "stable 66.67%, canary 33.33%"
        );
    }

    #[test]
    fn an_unknown_backend_names_the_one_that_was_meant() {
        let problem = shift(&mut route(), None, "stable=1,cannary=1").unwrap_err();
        assert_eq!(problem.help.as_deref(), Some("did you mean canary?"));
        assert_eq!(problem.detail, ["rule main has no backend cannary; it has stable, canary"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        for (weights, says) in [
            ("stable=0,canary=0", "all weights would be 0"),
            ("canary=1", "stable=1"),
            ("stable", "no BACKEND=WEIGHT"),
            ("stable=-1", "no whole number"),
            ("stable=1000001", "no whole number"),
            ("stable=1,stable=2", "given twice"),
            (" , ", "no weights"),
        ] {
            let mut route = route();
            let text = shift(&mut route, None, weights).unwrap_err().render("x");
            assert!(text.contains(says), "{weights}: {text}");
            assert_eq!(route, self::route());
        }
    }

    #[test]
    fn a_rule_is_found_by_name_number_or_its_backends() {
        let two = json!({"spec": {"rules": [
            {"name": "a", "backendRefs": [{"name": "x"}, {"name": "y"}]},
            {"name": "b", "backendRefs": [{"name": "x"}]},
        ]}});
        let weights = |text| parse(text).unwrap();
        assert_eq!(position(&two, Some("b"), &weights("x=1")), Ok(1));
        assert_eq!(position(&two, Some("0"), &weights("x=1")), Ok(0));
        assert_eq!(position(&two, None, &weights("x=1,y=1")), Ok(0));
        let ambiguous = position(&two, None, &weights("x=1")).unwrap_err();
        assert_eq!(ambiguous.detail, ["rules with backends: a, b"]);
        assert!(position(&two, Some("c"), &weights("x=1")).is_err());
    }

    #[test]
    fn backends_of_one_name_are_told_apart_by_port_or_namespace() {
        let mut route = json!({"spec": {"rules": [{"backendRefs": [
            {"name": "x", "port": 1}, {"name": "x", "port": 2}, {"name": "z", "namespace": "n"},
        ]}]}});
        assert!(shift(&mut route, None, "x=1").is_err());
        let told = shift(&mut route, None, "x:1=1,x:2=1,n/z=2").unwrap();
        assert_eq!(told, "x 25%, x 25%, z 50%");
    }
}
