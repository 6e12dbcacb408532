//! The codes of what can be wrong with documents: each with its title, what it means and an example.

/// What one code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// `WL` and four digits, never used for anything else.
    pub code: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Why it is refused or warned of, and what to do.
    pub text: &'static str,
    /// A line or two that raise it.
    pub example: &'static str,
}

/// What this code means, if it is one.
pub fn code(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|known| known.code.eq_ignore_ascii_case(code))
}

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal, $text:literal, $example:literal;)*) => {
        $(#[doc = $title] pub const $name: &str = $code;)*
        /// Every code, in order.
        pub static CODES: &[Code] = &[
            $(Code { code: $code, title: $title, text: $text, example: $example },)*
        ];
    };
}

codes! {
    NOT_YAML = "WL0001", "not YAML",
        "The text does not parse as YAML or JSON.",
        "spec: {rules: [";
    UNKNOWN_FIELD = "WL0002", "unknown field",
        "The kind has no field of this name. It is refused rather than dropped, because a \
         misspelled field would otherwise change nothing and say nothing.",
        "backendRefs: [{name: stable, wieght: 90}]";
    WRONG_TYPE = "WL0003", "wrong type",
        "The field holds another type of value than the kind says.",
        "weight: \"90\"";
    SAME_OBJECT = "WL0004", "duplicate object",
        "Two documents of one bundle are the same object. Only one of them could be stored.",
        "two documents with kind HTTPRoute, namespace shop and name checkout";
    REQUIRED = "WL0005", "required field missing",
        "The kind needs this field.",
        "spec: {listeners: [{name: http, protocol: HTTP}]}   # no port";
    UNKNOWN_KIND = "WL0006", "unknown kind",
        "Weighlock serves no kind of this name in this group and version.",
        "kind: HttpRoute";
    UNREADABLE = "WL0007", "file cannot be read",
        "A file or folder that was named is not there, may not be read, or is no text.",
        "wlctl apply -f gatewy.yaml";
    NEEDS_YES = "WL0010", "needs --yes",
        "What destroys asks first. Where nobody can be asked, --yes says that it is meant.",
        "wlctl delete gateway public   # in a script";
    BACKEND_MISSING = "WL0031", "backend does not exist",
        "A route sends traffic to a backend that nobody declared. The share of that backend would \
         answer 500.",
        "backendRefs: [{group: weighlock.dev, kind: Backend, name: chekout}]";
    NOT_PERMITTED = "WL0032", "reference not permitted",
        "A reference into another namespace needs a ReferenceGrant there.",
        "backendRefs: [{name: stable, namespace: other}]   # no grant in namespace other";
    LISTENER_MISSING = "WL0033", "listener does not exist",
        "A route names a Gateway, a section or a port that is not there, so it would not attach.",
        "parentRefs: [{name: public, sectionName: htps}]";
    SECRET_MISSING = "WL0034", "certificate does not exist",
        "A listener names a Secret that nobody declared, so it cannot be served.",
        "tls: {certificateRefs: [{name: shop-cert}]}";
    UNKNOWN_REFERENT = "WL0035", "reference to a kind that cannot stand here",
        "The field takes references to certain kinds only.",
        "backendRefs: [{kind: ConfigMap, name: x}]";
    NOT_ALLOWED = "WL0036", "not allowed by the listener",
        "No listener of the Gateway takes routes of this kind from this namespace.",
        "allowedRoutes: {namespaces: {from: Same}}   # and the route is elsewhere";
    NO_HOSTNAME = "WL0037", "no hostname in common",
        "The hostnames of the route and of the listener do not overlap, so it would never match.",
        "hostnames: [shop.example]   # listener: api.example";
    LISTENER_CONFLICT = "WL0038", "listeners conflict",
        "Two listeners of one port cannot be told apart, or speak protocols that cannot share it.",
        "listeners: [{port: 80, protocol: HTTP, …}, {port: 80, protocol: HTTPS, …}]";
    HOSTNAME_TAKEN = "WL0039", "hostname taken by a route of another kind",
        "An HTTPRoute and a GRPCRoute cannot answer for one hostname on one listener. The older \
         keeps it.",
        "kind: GRPCRoute, spec: {hostnames: [api.example]}   # an HTTPRoute has it";
    OUT_OF_RANGE = "WL0040", "value out of range",
        "The value is outside what the field takes.",
        "weight: 2000000";
    NOT_SUPPORTED = "WL0041", "not supported",
        "The field or value is known and Weighlock does not implement it. It is refused by name \
         rather than ignored.",
        "filters: [{type: ExternalAuth, …}]";
    CONTRADICTION = "WL0042", "fields that contradict each other",
        "Each field is right by itself; together they make no sense.",
        "filters: [{type: RequestRedirect, …}]   # beside backendRefs";
    BAD_NAME = "WL0043", "malformed name",
        "The value is not the kind of name, hostname or path that belongs here.",
        "hostnames: [\"shop_example\"]";
    DUPLICATE = "WL0044", "given twice",
        "The entries of this list must differ in what names them.",
        "listeners: [{name: http, …}, {name: http, …}]";
    BAD_REGEX = "WL0045", "regex refused",
        "The expression does not compile. Expressions have RE2 syntax: no look-around and no \
         back-references.",
        "path: {type: RegularExpression, value: \"/(?!admin).*\"}";
    IGNORED_CLASS = "WL0101", "nobody serves this Gateway",
        "The Gateway names a GatewayClass that is not ours or does not exist.",
        "gatewayClassName: weihglock";
    SHADOWED = "WL0107", "rule can never match",
        "Another match that is equal comes first.",
        "matches: [{path: {value: /a}}, {path: {value: /a}}]";
    BAD_CERTIFICATE = "WL0201", "certificate refused",
        "The Secret's `tls.crt` and `tls.key` are no PEM certificate chain and the key that \
         belongs to it.",
        "type: kubernetes.io/tls, data: {tls.crt: …, tls.key: …}";
    BAD_REQUEST = "WL0400", "bad request",
        "The request itself is wrong: a parameter, a header, or a body that does not belong there.",
        "GET …/httproutes?fieldSelector=spec.hostnames=x";
    NOT_LOCAL = "WL0403", "not for this caller",
        "A server with --open answers only requests whose Host is a loopback name or address and \
         whose Origin, if any, is its own: a page that a browser shows must not reach it.",
        "Host: weighlock.example";
    NOT_FOUND = "WL0404", "not found",
        "There is no such object, revision, node, group or path.",
        "wlctl get httproute chekout";
    NO_SUCH_VERB = "WL0405", "method not allowed",
        "The path is right and does not take this method.",
        "DELETE /v1/fleet";
    EXISTS = "WL0406", "already exists",
        "An object of this kind and name is there. Replace or patch it.",
        "kubectl create of an HTTPRoute that is there";
    CONFLICT = "WL0409", "changed by someone else",
        "The write is based on something older than what is stored. Read again, then write again.",
        "wlctl apply --if-revision r183, when r184 is there";
    EXPIRED = "WL0410", "too old",
        "Changes are kept for a while. What was asked for is older; list again.",
        "GET …/httproutes?watch=true&resourceVersion=1";
    FILE_OWNED = "WL0412", "owned by a file",
        "The object comes from a file that the control plane follows (`--config`). Change the file; \
         what is written over the API would be gone with the next reading.",
        "kubectl edit of an object that stands in routes.yaml";
    TOO_LARGE = "WL0413", "too large",
        "An object may have 1 MiB, a body 8 MiB, and there may be 200,000 objects.",
        "a ConfigMap of 2 MiB";
    MEDIA_TYPE = "WL0415", "media type not taken",
        "The body is of a type that this path does not take.",
        "PATCH with application/json-patch+json";
    REDACTED = "WL0423", "stands for no stored value",
        "Secrets are write-only: what is read are marks that stand for the values. A mark that is \
         written back keeps the value that it stands for, under the same name of the same Secret.",
        "data: {tls.key: cmVkYWN0ZWQ6…}   # copied from another Secret";
    NAMESPACE_IN_USE = "WL0424", "namespace is not empty",
        "Deleting a Namespace deletes the document and never the contents. Delete those first.",
        "kubectl delete namespace shop";
    RAW_RESOURCE = "WL0430", "raw resource refused",
        "A resource of a raw group is no proto3 JSON of the type that its @type names.",
        "{\"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\", \"nam\": \"a\"}";
    NODE_REFUSED = "WL0501", "node refused a resource",
        "A proxy answered with a NACK. It keeps serving what it had; its words are in the answer.",
        "wlctl status";
    NODES_LATE = "WL0504", "nodes have not answered",
        "The change is stored and was sent; the named nodes have not acknowledged it in time.",
        "wlctl apply --timeout 1s";
    PORT_IN_USE = "WL0602", "port in use",
        "Another program listens on the port. End it, or take another port.",
        "weighlock serve --open, twice";
    LOCKED = "WL0603", "data directory locked",
        "Another server uses this data directory. One store has one server.",
        "weighlock serve --data-dir ./weighlock-data, twice";
    NO_SERVER = "WL0604", "no control plane answers",
        "Nothing listens at the address, or it cannot be reached.",
        "wlctl status, when none is running";
    BROKE_OFF = "WL0605", "the connection broke off",
        "The server went away before it had answered, or speaks another protocol.",
        "wlctl --server http://127.0.0.1:18000 status   # the xDS port";
    INTERNAL = "WL0900", "internal error",
        "Something that must not happen. The log says more.",
        "-";
    STORE_AWAY = "WL0901", "store cannot be written",
        "The disk or the file does not do what it should. Reads are still answered.",
        "no space left on device";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_used_once() {
        for pair in CODES.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} {}", pair[0].code, pair[1].code);
        }
    }

    #[test]
    fn a_code_is_found_in_any_case() {
        assert_eq!(code("wl0045").map(|code| code.title), Some("regex refused"));
        assert_eq!(code("WL9999"), None);
    }
}
