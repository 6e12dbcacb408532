//! Compiles `path_match_policy` and `path_rewrite_policy`, of which Envoy has one kind: URI templates.

use prost::{Message, Name};
use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use xds_proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use xds_proto::field::{At, FieldError, required, required_text};

use crate::matcher::regex::RegexRewrite;
use crate::matcher::uri_template::UriTemplate;

/// The template of a route's match.
pub(super) fn matched(policy: TypedExtensionConfig) -> Result<UriTemplate, FieldError> {
    let config: UriTemplateMatchConfig = config(policy)?;
    let template = required_text(config.path_template, "path_template");
    template
        .and_then(|template| UriTemplate::parse(&template).at("path_template"))
        .at("typed_config")
}

/// What a path that `template` matches becomes.
pub(super) fn rewrite(
    policy: TypedExtensionConfig,
    template: Option<&UriTemplate>,
) -> Result<RegexRewrite, FieldError> {
    let config: UriTemplateRewriteConfig = config(policy)?;
    let Some(template) = template else {
        return Err(FieldError::invalid("needs a path_match_policy with a template"));
    };
    let rewrite = required_text(config.path_template_rewrite, "path_template_rewrite");
    rewrite
        .and_then(|rewrite| template.rewrite(&rewrite).at("path_template_rewrite"))
        .at("typed_config")
}

fn config<M: Message + Name + Default>(policy: TypedExtensionConfig) -> Result<M, FieldError> {
    let config = required(policy.typed_config, "typed_config")?;
    if config.type_url != M::type_url() {
        let name = config.type_url.rsplit('/').next().unwrap_or_default();
        let reason = format!("unknown path policy {name:?}");
        return Err(FieldError::invalid(reason)).at("type_url").at("typed_config");
    }
    M::decode(config.value.as_slice())
        .map_err(|error| FieldError::invalid(error.to_string()))
        .at("value")
        .at("typed_config")
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    const MATCH: &str =
        "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, want) in [
            ("{name: x}".to_owned(), "typed_config: required"),
            (
                format!("{{name: x, typed_config: {{'@type': {MATCH}, path_template: x}}}}"),
                "typed_config.path_template: must begin with /",
            ),
        ] {
            assert_eq!(matched(from_yaml(&yaml).unwrap()).unwrap_err().to_string(), want);
        }
        let wrong = format!("{{name: x, typed_config: {{'@type': {MATCH}, path_template: /}}}}");
        let error = rewrite(from_yaml(&wrong).unwrap(), None).unwrap_err();
        assert!(error.to_string().starts_with("typed_config.type_url: unknown path policy"));
    }
}
