//! Regular expressions: refused here when the proxy would refuse them.

use data_plane::matcher::regex::Regex;

/// Compiles an expression as the proxy does, and throws it away.
///
/// # Errors
/// Why it does not compile, in one line.
pub fn check_expression(expression: &str) -> Result<(), String> {
    Regex::compile(expression).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_refuses_is_refused() {
        assert_eq!(check_expression("/a|/b"), Ok(()));
        assert!(check_expression("a)(b").is_err());
        assert!(check_expression("(?!a).*").unwrap_err().contains("look-around"));
    }
}
