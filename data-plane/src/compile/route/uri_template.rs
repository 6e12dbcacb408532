//! Compiles `path_rewrite_policy`, of which Envoy has one kind: URI templates.

use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use xds_proto::field::{At, FieldError, required_text};

use crate::matcher::compile::path_policy;
use crate::matcher::regex::RegexRewrite;
use crate::matcher::uri_template::UriTemplate;

/// What a path that `template` matches becomes.
pub(super) fn rewrite(
    policy: TypedExtensionConfig,
    template: Option<&UriTemplate>,
) -> Result<RegexRewrite, FieldError> {
    let config: UriTemplateRewriteConfig = path_policy(policy)?;
    let Some(template) = template else {
        return Err(FieldError::invalid("needs a path_match_policy with a template"));
    };
    let rewrite = required_text(config.path_template_rewrite, "path_template_rewrite");
    rewrite
        .and_then(|rewrite| template.rewrite(&rewrite).at("path_template_rewrite"))
        .at("typed_config")
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    const MATCH: &str =
        "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

    #[test]
    fn what_is_no_rewrite_is_refused() {
        let wrong = format!("{{name: x, typed_config: {{'@type': {MATCH}, path_template: /}}}}");
        let error = rewrite(from_yaml(&wrong).unwrap(), None).unwrap_err();
        assert!(error.to_string().starts_with("typed_config.type_url: unknown path policy"));
    }
}
