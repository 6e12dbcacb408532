//! Paths by template (`/users/{id}/items/{rest=**}`): Envoy's `uri_template` match and rewrite.
//!
//! A template becomes an expression, and a rewrite a substitution in it, so that at run time there
//! is one kind of pattern.

use std::fmt::Write as _;

use xds_proto::field::FieldError;

use super::regex::{Regex, RegexRewrite};

/// What a path segment is made of, between the brackets of a character class: RFC 3986's `pchar`,
/// with `%` for what is encoded.
const SEGMENT: &str = r"a-zA-Z0-9\-._~%!$&'()*+,;=:@";

const VARIABLES_MAX: usize = 5;
const NAME_BYTES_MAX: usize = 16;

/// A template, as an expression with a group for each variable.
#[derive(Debug, Clone)]
pub struct UriTemplate {
    pattern: String,
    /// The names of the groups, in order.
    variables: Vec<Box<str>>,
}

/// What stands between two slashes.
enum Segment<'t> {
    Literal(&'t str),
    /// `*`
    One,
    /// `**`
    Rest,
}

impl UriTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// Where it is malformed, as Envoy would have it.
    pub fn parse(template: &str) -> Result<Self, FieldError> {
        let Some(mut rest) = template.strip_prefix('/') else {
            return Err(FieldError::invalid("must begin with /"));
        };
        let mut this = Self { pattern: "^/".into(), variables: Vec::new() };
        let mut is_rest_seen = false;
        while !rest.is_empty() {
            rest = match rest.strip_prefix('{') {
                Some(inside) => this.variable(inside, &mut is_rest_seen)?,
                None => this.segment(rest, &mut is_rest_seen)?,
            };
            if rest.is_empty() {
                break;
            }
            match rest.strip_prefix('/') {
                Some(after) => {
                    this.pattern.push('/');
                    rest = after;
                }
                // As in `{file}.vtt`: only at the very end.
                None if rest.contains('/') => {
                    return Err(FieldError::invalid("a suffix of a segment must end the template"));
                }
                None => {
                    this.literal(rest)?;
                    break;
                }
            }
        }
        this.pattern.push('$');
        Ok(this)
    }

    /// The expression that matches what the template does.
    ///
    /// # Errors
    /// When it is too large.
    pub fn regex(&self) -> Result<Regex, FieldError> {
        Regex::compile(&self.pattern)
    }

    /// The expression as text.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// How a path that the template matches becomes another one, in which `{name}` stands for what
    /// the variable matched.
    ///
    /// # Errors
    /// Where the rewrite is malformed or names no variable of the template.
    pub fn rewrite(&self, rewrite: &str) -> Result<RegexRewrite, FieldError> {
        if !rewrite.starts_with('/') {
            return Err(FieldError::invalid("must begin with /"));
        }
        let mut substitution = String::new();
        let mut rest = rewrite;
        while let Some((literal, after)) = rest.split_once('{') {
            rewrite_literal(literal)?;
            substitution.push_str(literal);
            let (name, after) = after.split_once('}').ok_or_else(unmatched)?;
            let position = self.variables.iter().position(|variable| **variable == *name);
            let Some(position) = position else {
                return Err(FieldError::invalid(format!("the template has no variable {name:?}")));
            };
            write!(substitution, "\\{}", position + 1).unwrap_or_default();
            rest = after;
        }
        rewrite_literal(rest)?;
        substitution.push_str(rest);
        RegexRewrite::compile(&self.pattern, &substitution)
    }

    /// Takes in a variable, of which the opening bracket is gone; gives what follows.
    fn variable<'t>(
        &mut self,
        text: &'t str,
        is_rest_seen: &mut bool,
    ) -> Result<&'t str, FieldError> {
        let (inside, after) = text.split_once('}').ok_or_else(unmatched)?;
        let (name, pattern) = inside.split_once('=').unwrap_or((inside, "*"));
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() <= NAME_BYTES_MAX;
        if !is_name {
            let reason = format!("{name:?} is no variable name: 1 to 16 letters, digits and _");
            return Err(FieldError::invalid(reason));
        }
        if self.variables.iter().any(|variable| **variable == *name) {
            return Err(FieldError::invalid(format!("{name:?} is there twice")));
        }
        if self.variables.len() == VARIABLES_MAX {
            return Err(FieldError::invalid("has more than 5 variables"));
        }
        self.variables.push(name.into());
        self.pattern.push('(');
        for (index, part) in pattern.split('/').enumerate() {
            if index > 0 {
                self.pattern.push('/');
            }
            let left = self.segment(part, is_rest_seen)?;
            if !left.is_empty() || part.is_empty() {
                let reason = format!("{pattern:?} is no pattern of a variable");
                return Err(FieldError::invalid(reason));
            }
        }
        self.pattern.push(')');
        Ok(after)
    }

    /// Takes in a wildcard, or a literal up to the next slash; gives what follows.
    fn segment<'t>(
        &mut self,
        text: &'t str,
        is_rest_seen: &mut bool,
    ) -> Result<&'t str, FieldError> {
        let (segment, after) = if let Some(after) = text.strip_prefix("**") {
            (Segment::Rest, after)
        } else if let Some(after) = text.strip_prefix('*') {
            (Segment::One, after)
        } else {
            let (literal, after) = text.split_at(text.find('/').unwrap_or(text.len()));
            (Segment::Literal(literal), after)
        };
        match segment {
            Segment::Literal(literal) => self.literal(literal)?,
            Segment::One | Segment::Rest if *is_rest_seen => {
                return Err(FieldError::invalid("nothing variable may follow **"));
            }
            Segment::One => write!(self.pattern, "[{SEGMENT}]+").unwrap_or_default(),
            Segment::Rest => {
                *is_rest_seen = true;
                write!(self.pattern, "[{SEGMENT}/]*").unwrap_or_default();
            }
        }
        Ok(after)
    }

    fn literal(&mut self, literal: &str) -> Result<(), FieldError> {
        if literal.is_empty() || !literal.bytes().all(is_segment_byte) {
            return Err(FieldError::invalid(format!("{literal:?} is no path segment")));
        }
        for char in literal.chars() {
            if "$()*.+".contains(char) {
                self.pattern.push('\\');
            }
            self.pattern.push(char);
        }
        Ok(())
    }
}

fn unmatched() -> FieldError {
    FieldError::invalid("has a { without its }")
}

fn rewrite_literal(text: &str) -> Result<(), FieldError> {
    if text.bytes().all(|byte| byte == b'/' || is_segment_byte(byte)) {
        return Ok(());
    }
    Err(FieldError::invalid(format!("{text:?} is no part of a path")))
}

fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(template: &str, rewrite: &str, path: &str) -> Option<String> {
        let template = UriTemplate::parse(template).unwrap();
        let rewrite = template.rewrite(rewrite).unwrap();
        template.regex().unwrap().matches(path.as_bytes()).then(|| rewrite.apply(path))
    }

    #[test]
    fn variables_match_one_segment_several_or_the_rest() {
        for (template, rewrite, path, want) in [
            ("/{one}/{two}", "/{two}/{one}", "/cat/dog", Some("/dog/cat")),
            ("/{one}/{two}", "/{two}/{one}", "/cat/dog/x", None),
            ("/{one}", "/x", "/", None),
            (
                "/videos/{language=lang/*}/*",
                "/{language}",
                "/videos/lang/en/v.m4s",
                Some("/lang/en"),
            ),
            (
                "/users/{id}/items/{item=**}",
                "/{item}/of/{id}",
                "/users/7/items/a/b",
                Some("/a/b/of/7"),
            ),
            ("/users/{id}/items/{item=**}", "/{item}/of/{id}", "/users/7/items/", Some("//of/7")),
            ("/users/{id}/items/{item=**}", "/{item}/of/{id}", "/users/7/items", None),
            (
                "/c/{f}/{l}/{file}.vtt",
                "/{l}/{f}/{file}.vtt",
                "/c/hls/en/a_1.vtt",
                Some("/en/hls/a_1.vtt"),
            ),
            ("/**.mpd", "/x", "/content/1/m.mpd", Some("/x")),
            ("/**.mpd", "/x", "/content/1/m.mpe", None),
            ("/a.b/*", "/$1", "/a.b/c", Some("/$1")),
            ("/a.b/*", "/x", "/aXb/c", None),
            ("/a/", "/x", "/a/", Some("/x")),
            ("/a/*", "/x", "/a/b=*c", Some("/x")),
            ("/a/*", "/x", "/a/b\"c", None),
            ("/a=*b/*", "/x", "/a=*b/c", Some("/x")),
        ] {
            assert_eq!(rewritten(template, rewrite, path).as_deref(), want, "{template} {path}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said() {
        for (template, want) in [
            ("x", "must begin with /"),
            ("/{a", "has a { without its }"),
            ("/{1a}", "\"1a\" is no variable name: 1 to 16 letters, digits and _"),
            ("/{a}/{a}", "\"a\" is there twice"),
            ("/{a}/{b}/{c}/{d}/{e}/{f}", "has more than 5 variables"),
            ("/**/*", "nothing variable may follow **"),
            ("/{a=**}/{b}", "nothing variable may follow **"),
            ("/{a=x/}", "\"\" is no path segment"),
            ("/{a}x/b", "a suffix of a segment must end the template"),
            ("/a b", "\"a b\" is no path segment"),
            ("//a", "\"\" is no path segment"),
            ("/{a=*x}", "\"*x\" is no pattern of a variable"),
        ] {
            assert_eq!(UriTemplate::parse(template).unwrap_err().to_string(), want, "{template}");
        }
        let template = UriTemplate::parse("/{a}").unwrap();
        for (rewrite, want) in [
            ("x", "must begin with /"),
            ("/{b}", "the template has no variable \"b\""),
            ("/{a", "has a { without its }"),
            ("/a?b", "\"/a?b\" is no part of a path"),
        ] {
            assert_eq!(template.rewrite(rewrite).unwrap_err().to_string(), want, "{rewrite}");
        }
    }
}
