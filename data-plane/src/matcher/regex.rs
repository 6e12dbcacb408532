//! Regular expressions in RE2 syntax, as Envoy has them, over the `regex` crate.
//!
//! Both engines are of one family: linear time, no look-around, no back-references. Where their
//! syntax parts, `translate` says in this crate's words what RE2 would have understood.

use xds_proto::field::{At, FieldError};

/// The size of a compiled expression; a bad one costs at most this.
const SIZE_MAX: usize = 1 << 20;
/// The largest count RE2 allows in `{n,m}`.
const REPEAT_MAX: u32 = 1000;

/// An expression that must match the whole text (`envoy.type.matcher.v3.RegexMatcher`).
#[derive(Debug, Clone)]
pub struct Regex(::regex::bytes::Regex);

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Regex {}

impl Regex {
    /// Compiles RE2 syntax.
    ///
    /// # Errors
    /// When it is empty, does not compile, or gets too big.
    pub fn compile(pattern: &str) -> Result<Self, FieldError> {
        let pattern = format!("\\A(?:{})\\z", translate(pattern)?);
        let regex = ::regex::bytes::RegexBuilder::new(&pattern)
            .size_limit(SIZE_MAX)
            .dfa_size_limit(SIZE_MAX)
            .build()
            .map_err(|error| refused(&error))?;
        Ok(Self(regex))
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

/// The engine's reason on one line; it draws the place over several.
fn refused(error: &::regex::Error) -> FieldError {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim();
    FieldError::invalid(format!(
        "not a valid RE2 expression: {}",
        reason.strip_prefix("error: ").unwrap_or(reason)
    ))
}

/// Replaces every match in a text (`envoy.type.matcher.v3.RegexMatchAndSubstitute`).
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    regex: ::regex::Regex,
    substitution: Box<str>,
}

impl RegexRewrite {
    /// Compiles an expression, and a substitution in which `\1` is a group, `\0` all of the match,
    /// and `\\` a backslash.
    ///
    /// # Errors
    /// As [`Regex::compile`]; and when the substitution names a group that is not there.
    pub fn compile(pattern: &str, substitution: &str) -> Result<Self, FieldError> {
        let regex = translate(pattern)
            .and_then(|pattern| {
                ::regex::RegexBuilder::new(&pattern)
                    .size_limit(SIZE_MAX)
                    .dfa_size_limit(SIZE_MAX)
                    .build()
                    .map_err(|error| refused(&error))
            })
            .at("regex")
            .at("pattern")?;
        let substitution =
            convert_substitution(substitution, regex.captures_len()).at("substitution")?.into();
        Ok(Self { regex, substitution })
    }

    /// The text with every match replaced.
    pub fn apply(&self, text: &str) -> String {
        self.regex.replace_all(text, &*self.substitution).into_owned()
    }
}

/// RE2's `\1` as the `regex` crate's `${1}`.
fn convert_substitution(text: &str, groups: usize) -> Result<String, FieldError> {
    let mut converted = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, if char == '\\' { chars.next() } else { None }) {
            ('\\', Some('\\')) => converted.push('\\'),
            ('\\', Some(digit @ '0'..='9')) => {
                if usize::try_from(u32::from(digit) - u32::from('0')).is_ok_and(|n| n >= groups) {
                    return Err(FieldError::invalid(format!("the pattern has no group {digit}")));
                }
                converted.push_str("${");
                converted.push(digit);
                converted.push('}');
            }
            ('\\', _) => {
                return Err(FieldError::invalid(
                    "a backslash stands before a digit or a backslash",
                ));
            }
            ('$', _) => converted.push_str("$$"),
            (other, _) => converted.push(other),
        }
    }
    Ok(converted)
}

/// RE2 syntax in the `regex` crate's words:
/// - `\d`, `\w`, `\s`, `\b` and their opposites are ASCII;
/// - inside brackets, `[`, `&`, `~` and `--` are themselves, not set operations;
/// - `\Q…\E` quotes;
/// - a brace that begins no count is itself;
/// - `\C` and counts above 1000 are refused; so is what only this crate has.
fn translate(pattern: &str) -> Result<String, FieldError> {
    if pattern.is_empty() {
        return Err(FieldError::required());
    }
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    let mut depth = 0_u32;
    while let Some(char) = rest.chars().next() {
        let after = &rest[char.len_utf8()..];
        rest = match char {
            '\\' => escape(after, in_class, &mut out)?,
            '[' if !in_class => {
                in_class = true;
                class_start(after, &mut out)
            }
            '[' if after.starts_with(':') => {
                let end = after.find(":]").map_or(after.len(), |end| end + 2);
                out.push('[');
                out.push_str(&after[..end]);
                &after[end..]
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
                after
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(char);
                after
            }
            '-' if in_class && out.ends_with('-') => {
                out.push_str("\\-");
                after
            }
            '(' | ')' if !in_class => {
                // Checked here: `a)(b` would become right inside the anchors.
                depth = match char {
                    '(' => Some(depth + 1),
                    _ => depth.checked_sub(1),
                }
                .ok_or_else(|| FieldError::invalid("not a valid RE2 expression: unopened group"))?;
                out.push(char);
                after
            }
            '{' if !in_class => {
                // Where no count follows, a brace is itself.
                out.push_str(if is_count(after)? { "{" } else { "\\{" });
                after
            }
            _ => {
                out.push(char);
                after
            }
        };
    }
    Ok(out)
}

/// The `^` and the literal `]` that may begin a class.
fn class_start<'a>(rest: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let rest = rest.strip_prefix('^').map_or(rest, |rest| {
        out.push('^');
        rest
    });
    rest.strip_prefix(']').map_or(rest, |rest| {
        out.push_str("\\]");
        rest
    })
}

fn escape<'a>(rest: &'a str, in_class: bool, out: &mut String) -> Result<&'a str, FieldError> {
    let Some(char) = rest.chars().next() else {
        return Err(FieldError::invalid("not a valid RE2 expression: trailing backslash"));
    };
    let after = &rest[char.len_utf8()..];
    let ascii = match (char, in_class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('D', _) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('s', true) => "\\t\\n\\f\\r ",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', false) if !after.starts_with('{') => "(?-u:\\b)",
        ('Q', false) => {
            let (quoted, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&::regex::escape(quoted));
            return Ok(after);
        }
        ('C' | 'b' | 'B' | '<' | '>' | 'u' | 'U' | 'E', _) => {
            return Err(FieldError::invalid(format!(
                "not a valid RE2 expression: \\{char} is not supported"
            )));
        }
        _ => {
            out.push('\\');
            out.push(char);
            return Ok(after);
        }
    };
    out.push_str(ascii);
    Ok(after)
}

/// Whether `{` begins a count: `{n}`, `{n,}` or `{n,m}`. One that RE2 refuses is refused.
fn is_count(rest: &str) -> Result<bool, FieldError> {
    let Some((counts, _)) = rest.split_once('}') else { return Ok(false) };
    let (from, to) = counts.split_once(',').unwrap_or((counts, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if from.is_empty() || !is_number(from) || !is_number(to) {
        return Ok(false);
    }
    let fits = |text: &str| text.is_empty() || text.parse().is_ok_and(|n: u32| n <= REPEAT_MAX);
    if fits(from) && fits(to) {
        return Ok(true);
    }
    Err(FieldError::invalid(format!("not a valid RE2 expression: counts go up to {REPEAT_MAX}")))
}

/// The text every match of the pattern begins with; it may be empty, and is never too long. Route
/// lookup finds an expression by it.
pub fn literal_prefix(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    // An alternative may begin otherwise, and a flag may change what a letter means.
    if pattern.contains('|') || pattern.contains("(?") {
        return "";
    }
    literal_run(pattern)
}

fn literal_run(pattern: &str) -> &str {
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "/_-~%=:@,;!&' ".contains(c);
    let end = pattern.find(|c| !is_literal(c)).unwrap_or(pattern.len());
    // What is optional or counted is not sure to be there.
    if pattern[end..].starts_with(['?', '*', '{', '+']) {
        return &pattern[..end.saturating_sub(1)];
    }
    &pattern[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, yes, no) in [
            ("[0-9]+", &["1", "123"][..], &["12a", "", "1 "][..]),
            ("a|b", &["a", "b"], &["ab", "ax"]),
            ("^/a$", &["/a"], &["/a/"]),
            ("(?i)/a", &["/A"], &["/Ab"]),
            ("", &[], &[]),
        ] {
            let Ok(regex) = Regex::compile(pattern) else {
                assert!(yes.is_empty());
                continue;
            };
            for text in yes {
                assert!(regex.matches(text.as_bytes()), "{pattern} {text}");
            }
            for text in no {
                assert!(!regex.matches(text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn classes_mean_what_they_mean_in_re2() {
        for (pattern, text, want) in [
            ("\\d", "٣", false),
            ("\\w", "é", false),
            ("\\W", "é", true),
            (".", "é", true),
            ("[^a]", "é", true),
            ("[[]", "[", true),
            ("[a&&b]", "&", true),
            ("[a~~b]", "~", true),
            ("[]a]", "]", true),
            ("[[:alpha:]\\d]+", "a1", true),
            ("[\\D]", "x", true),
            ("[+--]", "-", true),
            ("\\Qa.b\\E+", "a.bb", true),
            ("\\Qa.b\\E", "axb", false),
            ("[\\w.-]+", "a-b.c", true),
            ("/{id}", "/{id}", true),
            ("/a{,2}", "/a{,2}", true),
            ("/a{2,}", "/aaa", true),
        ] {
            let regex = Regex::compile(pattern).unwrap();
            assert_eq!(regex.matches(text.as_bytes()), want, "{pattern} {text}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for pattern in [
            "([",
            "a(?=b)",
            "(a)\\1",
            "a)(b",
            "\\C",
            "a{1001}",
            "a{2,1001}",
            "\\",
            "*a",
            "\\<a",
            "(?<=a)b",
        ] {
            let error = Regex::compile(pattern).unwrap_err().to_string();
            assert!(error.starts_with("not a valid RE2 expression: "), "{pattern}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(Regex::compile("((((a{100}){100}){100}){100})").is_err());
    }

    #[test]
    fn every_match_is_replaced() {
        for (pattern, substitution, text, want) in [
            ("^/service/([^/]+)(/.*)$", "\\2/instance/\\1", "/service/foo/v1", "/v1/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", "\\1two\\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a(b)?", "[\\0|\\1]", "ab a", "[ab|b] [a|]"),
            ("a", "$1\\\\", "a", "$1\\"),
        ] {
            let rewrite = RegexRewrite::compile(pattern, substitution).unwrap();
            assert_eq!(rewrite.apply(text), want, "{pattern}");
        }
    }

    #[test]
    fn a_substitution_names_only_groups_that_are_there() {
        for (substitution, want) in [
            ("\\2", "substitution: the pattern has no group 2"),
            ("\\x", "substitution: a backslash stands before a digit or a backslash"),
            ("\\", "substitution: a backslash stands before a digit or a backslash"),
        ] {
            let error = RegexRewrite::compile("(a)", substitution).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn the_literal_prefix_is_what_every_match_begins_with() {
        for (pattern, want) in [
            ("/api/v[0-9]+", "/api/v"),
            ("^/api/", "/api/"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab+", "/a"),
            ("/ab{0,2}", "/a"),
            ("/a|/b", ""),
            ("/x/(a|b)", ""),
            ("(?i)/a", ""),
            ("/a\\.b", "/a"),
            ("/a.b", "/a"),
            ("/x\\d?", "/x"),
            (".*", ""),
        ] {
            assert_eq!(literal_prefix(pattern), want, "{pattern}");
        }
    }
}
