//! Header changes: what to remove, what to add, and how (Envoy's `HeaderValueOption`).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Context, Template};

/// What happens to a header that is already there (`HeaderValueOption.HeaderAppendAction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendAction {
    /// One more line, or joined with a comma where Envoy keeps the header as one line.
    #[default]
    AppendIfExistsOrAdd,
    /// Nothing.
    AddIfAbsent,
    /// Replaced; set when there is none.
    OverwriteIfExistsOrAdd,
    /// Replaced; nothing when there is none.
    OverwriteIfExists,
}

/// One header to set or add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderAddition {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: AddedValue,
    /// What happens to one that is there.
    pub action: AppendAction,
    /// Whether an empty value is set too (`keep_empty_value`); else it changes nothing.
    pub keep_empty_value: bool,
}

/// The value of a [`HeaderAddition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddedValue {
    /// The same for every request.
    Fixed(HeaderValue),
    /// Rendered for each.
    Template(Template),
}

/// Whose headers change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The request's.
    Request,
    /// The response's.
    Response,
}

/// The changes of one level (route, virtual host, …): removals first, then all values from the
/// headers as they are, then replacements, then additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderMutations {
    remove: Box<[HeaderName]>,
    add: Box<[HeaderAddition]>,
    /// No value and no decision depends on another change of this level.
    is_independent: bool,
}

impl HeaderMutations {
    /// Changes, of which the removals come first.
    pub fn new(remove: Vec<HeaderName>, add: Vec<HeaderAddition>) -> Self {
        let is_independent = add.iter().enumerate().all(|(index, addition)| {
            matches!(addition.value, AddedValue::Fixed(_))
                && add[..index].iter().all(|earlier| earlier.name != addition.name)
        });
        Self { remove: remove.into(), add: add.into(), is_independent }
    }

    /// The same with the values that they have now.
    #[must_use]
    pub fn fixed(&self, context: &Context<'_>) -> Self {
        let add = self.add.iter().map(|addition| {
            let value = match &addition.value {
                AddedValue::Fixed(_) => return addition.clone(),
                AddedValue::Template(template) => {
                    let mut text = String::new();
                    template.render(context, &mut text);
                    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
                }
            };
            HeaderAddition { value: AddedValue::Fixed(value), ..addition.clone() }
        });
        Self::new(self.remove.to_vec(), add.collect())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies all of it to `headers`, which are those of the request or of the response; what the
    /// templates read of the other one is in `context`.
    pub fn apply(&self, headers: &mut HeaderMap, side: Side, context: &Context<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        if self.is_independent {
            for addition in &self.add {
                if let AddedValue::Fixed(value) = &addition.value
                    && addition.is_wanted(headers, value)
                {
                    addition.put(headers, value.clone(), side);
                }
            }
            return;
        }
        let mut context = *context;
        let values = match side {
            Side::Request => {
                context.request_headers = Some(headers);
                self.values(headers, &context)
            }
            Side::Response => {
                context.response_headers = Some(headers);
                self.values(headers, &context)
            }
        };
        for replaces in [true, false] {
            for (addition, value) in &values {
                if addition.replaces() == replaces {
                    addition.put(headers, value.clone(), side);
                }
            }
        }
    }

    fn values(
        &self,
        headers: &HeaderMap,
        context: &Context<'_>,
    ) -> Vec<(&HeaderAddition, HeaderValue)> {
        let mut values = Vec::with_capacity(self.add.len());
        let mut text = String::new();
        for addition in &self.add {
            let value = match &addition.value {
                AddedValue::Fixed(value) => value.clone(),
                AddedValue::Template(template) => {
                    text.clear();
                    template.render(context, &mut text);
                    let Ok(value) = HeaderValue::from_str(&text) else { continue };
                    value
                }
            };
            if addition.is_wanted(headers, &value) {
                values.push((addition, value));
            }
        }
        values
    }
}

impl HeaderAddition {
    fn replaces(&self) -> bool {
        match self.action {
            AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists => true,
            AppendAction::AppendIfExistsOrAdd | AppendAction::AddIfAbsent => false,
        }
    }

    fn is_wanted(&self, headers: &HeaderMap, value: &HeaderValue) -> bool {
        if value.is_empty() && !self.keep_empty_value {
            return false;
        }
        match self.action {
            AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
            AppendAction::AddIfAbsent => !headers.contains_key(&self.name),
            AppendAction::OverwriteIfExists => headers.contains_key(&self.name),
        }
    }

    fn put(&self, headers: &mut HeaderMap, value: HeaderValue, side: Side) {
        if self.replaces() {
            headers.insert(&self.name, value);
        } else if let Some(present) = headers.get(&self.name)
            && is_one_line(&self.name, side)
        {
            let joined = [present.as_bytes(), b",", value.as_bytes()].concat();
            if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                headers.insert(&self.name, joined);
            }
        } else {
            headers.append(&self.name, value);
        }
    }
}

/// Whether Envoy keeps this header as one line ("inline" in its header map), so that several lines
/// of it, or a line added to one, are joined with a comma. As measured with Envoy 1.40.
pub(crate) fn is_one_line(name: &HeaderName, side: Side) -> bool {
    let both = matches!(
        name.as_str(),
        "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-type"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "via"
            | "x-envoy-attempt-count"
            | "x-envoy-decorator-operation"
            | "x-request-id"
    );
    both || match side {
        Side::Request => is_one_line_of_request(name.as_str()),
        Side::Response => is_one_line_of_response(name.as_str()),
    }
}

fn is_one_line_of_request(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "authorization"
            | "expect"
            | "grpc-accept-encoding"
            | "grpc-timeout"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "origin"
            | "pragma"
            | "referer"
            | "te"
            | "user-agent"
            | "x-client-trace-id"
            | "x-envoy-downstream-service-cluster"
            | "x-envoy-downstream-service-node"
            | "x-envoy-external-address"
            | "x-envoy-internal"
            | "x-envoy-original-path"
            | "x-envoy-original-url"
            | "x-forwarded-client-cert"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
    )
}

fn is_one_line_of_response(name: &str) -> bool {
    matches!(
        name,
        "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "access-control-max-age"
            | "age"
            | "date"
            | "etag"
            | "expires"
            | "grpc-message"
            | "grpc-status"
            | "last-modified"
            | "location"
            | "server"
            | "vary"
            | "x-envoy-degraded"
            | "x-envoy-ratelimited"
            | "x-envoy-upstream-service-time"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(name: &'static str, value: &str, action: AppendAction) -> HeaderAddition {
        let template = Template::compile(value).unwrap();
        HeaderAddition {
            name: HeaderName::from_static(name),
            value: match template.literal() {
                Some(text) => AddedValue::Fixed(text.parse().unwrap()),
                None => AddedValue::Template(template),
            },
            action,
            keep_empty_value: false,
        }
    }

    fn apply(remove: &[&'static str], add: Vec<HeaderAddition>, before: &[(&str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let remove = remove.iter().map(|name| HeaderName::from_static(name)).collect();
        HeaderMutations::new(remove, add).apply(&mut headers, Side::Request, &Context::default());
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}={}", value.to_str().unwrap())
        };
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn each_action_does_what_envoy_does() {
        use AppendAction::*;
        for (action, absent, present) in [
            (AppendIfExistsOrAdd, "x-a=new", "x-a=new x-a=old"),
            (AddIfAbsent, "x-a=new", "x-a=old"),
            (OverwriteIfExistsOrAdd, "x-a=new", "x-a=new"),
            (OverwriteIfExists, "", "x-a=new"),
        ] {
            assert_eq!(apply(&[], vec![add("x-a", "new", action)], &[]), absent, "{action:?}");
            let before = [("x-a", "old")];
            assert_eq!(apply(&[], vec![add("x-a", "new", action)], &before), present, "{action:?}");
        }
    }

    #[test]
    fn removals_come_first() {
        let added = vec![add("x-a", "new", AppendAction::AddIfAbsent)];
        assert_eq!(apply(&["x-a"], added, &[("x-a", "old")]), "x-a=new");
    }

    #[test]
    fn every_decision_reads_the_headers_as_they_were() {
        use AppendAction::*;
        let twice = vec![add("x-a", "1", AddIfAbsent), add("x-a", "2", AddIfAbsent)];
        assert_eq!(apply(&[], twice, &[]), "x-a=1 x-a=2");
        let added_then_replaced =
            vec![add("x-a", "1", AppendIfExistsOrAdd), add("x-a", "2", OverwriteIfExistsOrAdd)];
        assert_eq!(apply(&[], added_then_replaced, &[("x-a", "old")]), "x-a=1 x-a=2");
        let chained = vec![add("x-a", "1", AddIfAbsent), add("x-b", "[%REQ(x-a)%]", AddIfAbsent)];
        assert_eq!(apply(&[], chained, &[]), "x-a=1 x-b=[]");
    }

    #[test]
    fn an_empty_value_is_set_only_when_kept() {
        let empty = add("x-a", "%REQ(x-none)%", AppendAction::OverwriteIfExistsOrAdd);
        assert_eq!(apply(&[], vec![empty.clone()], &[("x-a", "old")]), "x-a=old");
        let kept = HeaderAddition { keep_empty_value: true, ..empty };
        assert_eq!(apply(&[], vec![kept], &[("x-a", "old")]), "x-a=");
    }

    #[test]
    fn headers_of_one_line_are_joined() {
        let added = vec![add("via", "b", AppendAction::AppendIfExistsOrAdd)];
        assert_eq!(apply(&[], added, &[("via", "a")]), "via=a,b");
    }
}
