//! What the filters of routes look like, and what must hold between them.

use serde_json::Value;

use crate::finding::codes;
use crate::model::route::BACKEND_OBJECT;
use crate::model::schema::{Field, ObjectSchema, Report, Schema, defaulted, optional, required};
use crate::model::text::Format;

/// Each type of filter, and the field that goes with it.
const TYPES: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("ExtensionRef", "extensionRef"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
];

/// Types that may stand in a list more than once.
const REPEATABLE: &[&str] = &["RequestMirror", "ExtensionRef"];

/// One filter of an HTTPRoute.
pub(in crate::model) static HTTP_FILTER: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required(
            "type",
            Schema::Enum(&[
                "RequestHeaderModifier",
                "ResponseHeaderModifier",
                "RequestMirror",
                "RequestRedirect",
                "URLRewrite",
                "ExtensionRef",
                "CORS",
                "ExternalAuth",
            ]),
        ),
        REQUEST_HEADERS,
        RESPONSE_HEADERS,
        REQUEST_MIRROR,
        optional("requestRedirect", Schema::Object(&REDIRECT)),
        optional("urlRewrite", Schema::Object(&REWRITE)),
        EXTENSION_REF,
        optional("cors", Schema::Object(&CORS)),
        optional("externalAuth", Schema::Any),
    ],
    rules: &[field_of_type],
});

/// One filter of a GRPCRoute.
pub(in crate::model) static GRPC_FILTER: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required(
            "type",
            Schema::Enum(&[
                "RequestHeaderModifier",
                "ResponseHeaderModifier",
                "RequestMirror",
                "ExtensionRef",
            ]),
        ),
        REQUEST_HEADERS,
        RESPONSE_HEADERS,
        REQUEST_MIRROR,
        EXTENSION_REF,
    ],
    rules: &[field_of_type],
});

const REQUEST_HEADERS: Field = optional("requestHeaderModifier", Schema::Object(&MODIFIER));
const RESPONSE_HEADERS: Field = optional("responseHeaderModifier", Schema::Object(&MODIFIER));
const REQUEST_MIRROR: Field = optional("requestMirror", Schema::Object(&MIRROR));
const EXTENSION_REF: Field = optional("extensionRef", Schema::Object(&EXTENSION));

static MIRROR: ObjectSchema = ObjectSchema {
    fields: &[
        required("backendRef", BACKEND_OBJECT),
        optional("percent", Schema::Integer { min: 0, max: 100 }),
        optional("fraction", Schema::Object(&FRACTION)),
    ],
    rules: &[|mirror, report| {
        if !mirror["percent"].is_null() && !mirror["fraction"].is_null() {
            let message = "must not be given together with percent";
            report.add_at("fraction", codes::CONTRADICTION, message);
        }
    }],
};

static FRACTION: ObjectSchema = ObjectSchema {
    fields: &[
        required("numerator", Schema::Integer { min: 0, max: i32::MAX as i64 }),
        defaulted("denominator", "100", Schema::Integer { min: 1, max: i32::MAX as i64 }),
    ],
    rules: &[|fraction, report| {
        if fraction["numerator"].as_i64() > fraction["denominator"].as_i64() {
            let message = "must not be greater than denominator";
            report.add_at("numerator", codes::CONTRADICTION, message);
        }
    }],
};

static EXTENSION: ObjectSchema = ObjectSchema {
    fields: &[
        required("group", Schema::Text(Format::Group)),
        required("kind", Schema::Text(Format::KindName)),
        required("name", Schema::Text(Format::Filled(253))),
    ],
    rules: &[],
};

static CORS: ObjectSchema = ObjectSchema {
    fields: &[
        optional("allowOrigins", set(&Schema::Text(Format::Origin), 64)),
        optional("allowMethods", set(&Schema::Enum(CORS_METHODS), 9)),
        optional("allowHeaders", set(&NAME, 64)),
        optional("exposeHeaders", set(&NAME, 64)),
        optional("allowCredentials", Schema::Boolean),
        defaulted("maxAge", "5", Schema::Integer { min: 1, max: i32::MAX as i64 }),
    ],
    rules: &[|cors, report| {
        for field in ["allowOrigins", "allowMethods", "allowHeaders"] {
            let entries = cors[field].as_array().map(Vec::as_slice).unwrap_or_default();
            if entries.len() > 1 && entries.iter().any(|entry| entry == "*") {
                let message = "* stands for all, so nothing may stand beside it";
                report.add_at(field, codes::CONTRADICTION, message);
            }
        }
    }],
};

const CORS_METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

/// A list without two equal entries.
const fn set(item: &'static Schema, max: usize) -> Schema {
    Schema::List { item, min: 0, max, keys: &[""] }
}

static MODIFIER: ObjectSchema = ObjectSchema {
    fields: &[
        optional("set", headers()),
        optional("add", headers()),
        optional("remove", set(&NAME, 16)),
    ],
    rules: &[],
};

const NAME: Schema = Schema::Text(Format::HeaderName);

const fn headers() -> Schema {
    Schema::List { item: &HEADER, min: 0, max: 16, keys: &["name"] }
}

static HEADER: Schema = Schema::Object(&ObjectSchema {
    fields: &[
        required("name", Schema::Text(Format::HeaderName)),
        required("value", Schema::Text(Format::HeaderValue(4096))),
    ],
    rules: &[],
});

static REDIRECT: ObjectSchema = ObjectSchema {
    fields: &[
        optional("scheme", Schema::Enum(&["http", "https"])),
        optional("hostname", Schema::Text(Format::PreciseHostname)),
        optional("path", Schema::Object(&PATH)),
        optional("port", Schema::Integer { min: 1, max: 65535 }),
        defaulted("statusCode", "302", Schema::Number(&[301, 302, 303, 307, 308])),
    ],
    rules: &[],
};

static REWRITE: ObjectSchema = ObjectSchema {
    fields: &[
        optional("hostname", Schema::Text(Format::PreciseHostname)),
        optional("path", Schema::Object(&PATH)),
    ],
    rules: &[],
};

static PATH: ObjectSchema = ObjectSchema {
    fields: &[
        required("type", Schema::Enum(&["ReplaceFullPath", "ReplacePrefixMatch"])),
        optional("replaceFullPath", Schema::Text(Format::HeaderPath(1024))),
        optional("replacePrefixMatch", Schema::Text(Format::HeaderPath(1024))),
    ],
    rules: &[|path, report| {
        for (kind, field) in
            [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")]
        {
            goes_with(path, kind, field, report);
        }
    }],
};

/// `field` is there exactly when the type is `kind`.
fn goes_with(value: &Value, kind: &str, field: &str, report: &mut Report) {
    match (value["type"] == kind, !value[field].is_null()) {
        (true, false) => {
            report.add_at(field, codes::REQUIRED, format!("required when type is {kind}"));
        }
        (false, true) => {
            let message = format!("must not be given unless type is {kind}");
            report.add_at(field, codes::CONTRADICTION, message);
        }
        (true, true) | (false, false) => {}
    }
}

fn field_of_type(filter: &Value, report: &mut Report) {
    for (kind, field) in TYPES {
        goes_with(filter, kind, field, report);
    }
}

fn filters_of(value: &Value) -> &[Value] {
    value["filters"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// No filter twice, and not both a redirect and a rewrite.
pub(in crate::model) fn together(value: &Value, report: &mut Report) {
    let filters = filters_of(value);
    let first = |kind: &Value| filters.iter().position(|filter| filter["type"] == *kind);
    for (index, filter) in filters.iter().enumerate() {
        let kind = filter["type"].as_str().unwrap_or_default();
        if !REPEATABLE.contains(&kind) && first(&filter["type"]) != Some(index) {
            let message = format!("{kind} must not be given twice");
            report.add_at(&format!("filters[{index}]"), codes::DUPLICATE, message);
        }
    }
    let position = |kind: &str| filters.iter().position(|filter| filter["type"] == kind);
    if let (Some(redirect), Some(rewrite)) = (position("RequestRedirect"), position("URLRewrite")) {
        let place = format!("filters[{}]", redirect.max(rewrite));
        let message = "RequestRedirect and URLRewrite must not be used together";
        report.add_at(&place, codes::CONTRADICTION, message);
    }
}

/// What is redirected goes to no backend.
pub(in crate::model) fn redirect_alone(rule: &Value, report: &mut Report) {
    let redirects = filters_of(rule).iter().any(|filter| filter["type"] == "RequestRedirect");
    let references = rule["backendRefs"].as_array().map_or(0, Vec::len);
    if redirects && references > 0 {
        let message = "must not be given together with a RequestRedirect filter";
        report.add_at("backendRefs", codes::CONTRADICTION, message);
    }
}

/// A prefix can be replaced only where exactly one was matched.
pub(in crate::model) fn prefix_needs_match(rule: &Value, report: &mut Report) {
    let matches = rule["matches"].as_array().map(Vec::as_slice).unwrap_or_default();
    if matches.len() == 1 && matches.iter().all(|entry| entry["path"]["type"] == "PathPrefix") {
        return;
    }
    let references = rule["backendRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
    check_prefix(filters_of(rule), "", report);
    for (index, reference) in references.iter().enumerate() {
        check_prefix(filters_of(reference), &format!("backendRefs[{index}]."), report);
    }
}

fn check_prefix(filters: &[Value], place: &str, report: &mut Report) {
    for (index, filter) in filters.iter().enumerate() {
        for field in ["requestRedirect", "urlRewrite"] {
            if filter[field]["path"]["type"] == "ReplacePrefixMatch" {
                let place = format!("{place}filters[{index}].{field}.path");
                let message = "ReplacePrefixMatch needs exactly one PathPrefix match in the rule";
                report.add_at(&place, codes::CONTRADICTION, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::httproute::KIND;

    use super::*;

    fn findings(rule: Value) -> Vec<String> {
        let mut document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r"}, "spec": {"rules": [rule]},
        });
        let findings = KIND.check(&mut document);
        let text = |f: &crate::finding::Finding| {
            format!("{} {}: {}", f.code, f.field.trim_start_matches("spec.rules[0]."), f.message)
        };
        findings.iter().map(text).collect()
    }

    fn rewrite(path: Value) -> Value {
        json!({"type": "URLRewrite", "urlRewrite": {"path": path}})
    }

    #[test]
    fn a_filter_has_the_field_of_its_type() {
        assert_eq!(
            findings(json!({"filters": [{"type": "URLRewrite", "cors": {}}]})),
            [
                "WL0005 filters[0].urlRewrite: required when type is URLRewrite",
                "WL0042 filters[0].cors: must not be given unless type is CORS",
            ]
        );
        assert_eq!(
            findings(json!({"filters": [rewrite(json!({"type": "ReplaceFullPath"}))]})),
            ["WL0005 filters[0].urlRewrite.path.replaceFullPath: required when type is \
              ReplaceFullPath"]
        );
    }

    #[test]
    fn filters_fit_together() {
        let redirect = json!({"type": "RequestRedirect", "requestRedirect": {}});
        let full = rewrite(json!({"type": "ReplaceFullPath", "replaceFullPath": "/x"}));
        assert_eq!(
            findings(json!({"filters": [redirect, full, full]})),
            [
                "WL0044 filters[2]: URLRewrite must not be given twice",
                "WL0042 filters[1]: RequestRedirect and URLRewrite must not be used together",
            ]
        );
        assert_eq!(
            findings(json!({"filters": [redirect], "backendRefs": [{"name": "s", "port": 1}]})),
            ["WL0042 backendRefs: must not be given together with a RequestRedirect filter"]
        );
    }

    #[test]
    fn a_prefix_is_replaced_where_one_matched() {
        let prefix = rewrite(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}));
        assert_eq!(findings(json!({"filters": [prefix]})), [""; 0]);
        assert_eq!(
            findings(json!({"matches": [{"path": {"type": "Exact"}}], "filters": [prefix]})),
            ["WL0042 filters[0].urlRewrite.path: ReplacePrefixMatch needs exactly one PathPrefix \
              match in the rule"]
        );
    }

    #[test]
    fn a_header_value_holds_no_line_break() {
        let set = json!({"set": [{"name": "a", "value": "b\r\nc: d"}]});
        let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": set});
        assert_eq!(
            findings(json!({"filters": [filter]})),
            ["WL0043 filters[0].requestHeaderModifier.set[0].value: \"b\\r\\nc: d\" is no header \
              value (no control characters)"]
        );
    }
}
