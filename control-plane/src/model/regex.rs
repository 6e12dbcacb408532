//! Regular expressions as the proxy compiles them.

/// Compiles an expression as the proxy does, and throws it away.
///
/// # Errors
/// Why it does not compile, in one line.
pub fn check_expression(expression: &str) -> Result<(), String> {
    regex::RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(1 << 20)
        .build()
        .map(drop)
        .map_err(|error| one_line(&error))
}

fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).trim_end_matches('.').to_owned()
}
