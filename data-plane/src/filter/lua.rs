//! Taken where its code says nothing, so that Envoy configurations that keep a place for code serve here. No code is run.
//!
//! API: `envoy.extensions.filters.http.lua.v3.Lua`.

use xds_proto::envoy::config::core::v3::DataSource;
use xds_proto::envoy::config::core::v3::data_source::Specifier;
use xds_proto::envoy::extensions::filters::http::lua::v3 as api;
use xds_proto::envoy::extensions::filters::http::lua::v3::lua_per_route::Override;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use super::HttpFilter;

/// Does nothing.
#[derive(Debug)]
pub struct Lua;

impl HttpFilter for Lua {
    type Config = api::Lua;
    type RouteConfig = api::LuaPerRoute;
    type Route = ();

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::Lua,
            read: [inline_code, default_source_code, source_codes],
            // All of it is about code that is run.
            ignore: [
                stat_prefix, clear_route_cache, filter_context, package_paths, package_cpaths,
            ],
            refuse: [],
        );
        says_nothing(inline_code.as_bytes()).at("inline_code")?;
        default_source_code.map(source).transpose().at("default_source_code")?;
        for (name, code) in source_codes {
            source(code).at_key(&name).at("source_codes")?;
        }
        Ok(Self)
    }

    fn compile_route(config: Self::RouteConfig) -> Result<(), FieldError> {
        fields!(config: api::LuaPerRoute,
            read: [r#override],
            // All of it is about code that is run.
            ignore: [filter_context, package_paths, package_cpaths],
            refuse: [],
        );
        match required(r#override, "override")? {
            // All code that has a name says nothing.
            Override::Disabled(_) | Override::Name(_) => Ok(()),
            Override::SourceCode(code) => source(code).at("source_code"),
        }
    }
}

fn source(message: DataSource) -> Result<(), FieldError> {
    match required(message.specifier, "specifier")? {
        Specifier::InlineString(code) => says_nothing(code.as_bytes()).at("inline_string"),
        Specifier::InlineBytes(code) => says_nothing(&code).at("inline_bytes"),
        Specifier::Filename(_) => Err(FieldError::unsupported()).at("filename"),
        Specifier::EnvironmentVariable(_) => {
            Err(FieldError::unsupported()).at("environment_variable")
        }
    }
}

/// Takes what is nothing but comments.
fn says_nothing(code: &[u8]) -> Result<(), FieldError> {
    let mut rest = code.trim_ascii_start();
    while let Some(comment) = rest.strip_prefix(b"--") {
        // What begins with a bracket may go on behind the line, or end before it.
        if comment.starts_with(b"[") {
            break;
        }
        let end = comment.iter().position(|byte| *byte == b'\n').unwrap_or(comment.len());
        rest = comment[end..].trim_ascii_start();
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(FieldError::invalid("code is not run; only comments are taken")),
    }
}

#[cfg(test)]
mod tests {
    use xds_proto::json::from_yaml;

    use super::*;

    #[test]
    fn only_comments_are_taken() {
        let compile = |text: &str| Lua::compile(from_yaml(text).unwrap()).map(drop);
        for text in [
            "{}",
            "{default_source_code: {inline_string: '-- Placeholder.'}}",
            "{inline_code: \"  -- one\\n\\n--two\\n\"}",
            "{source_codes: {a: {inline_string: ''}}}",
        ] {
            assert_eq!(compile(text), Ok(()), "{text}");
        }
        let reason = "code is not run; only comments are taken";
        for (text, place) in [
            ("{inline_code: 'function envoy_on_request(h) end'}", "inline_code"),
            ("{inline_code: \"-- one\\nx = 1\"}", "inline_code"),
            ("{inline_code: '--[[ one ]] x = 1'}", "inline_code"),
            ("{source_codes: {a: {inline_string: x}}}", "source_codes[\"a\"].inline_string"),
        ] {
            assert_eq!(compile(text).unwrap_err().to_string(), format!("{place}: {reason}"));
        }
        let route = |text: &str| Lua::compile_route(from_yaml(text).unwrap());
        assert!(route("{disabled: true}").is_ok() && route("{name: a}").is_ok());
        assert!(route("{source_code: {inline_string: x}}").is_err());
    }
}
