//! The gRPC status of a response, and its names.

use http::HeaderMap;
use xds_proto::field::FieldError;

use super::{Context, push};

/// How a status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Camel,
    Snake,
    Number,
}

const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl Form {
    pub(super) fn parse(argument: &str) -> Result<Self, FieldError> {
        Ok(match argument {
            "" | "CAMEL_STRING" => Self::Camel,
            "SNAKE_STRING" => Self::Snake,
            "NUMBER" => Self::Number,
            other => {
                return Err(FieldError::invalid(format!("%GRPC_STATUS({other})% is not known")));
            }
        })
    }

    pub(super) fn write(self, status: usize, out: &mut String) {
        match (self, NAMES.get(status)) {
            (Self::Camel, Some((name, _))) | (Self::Snake, Some((_, name))) => out.push_str(name),
            (Self::Number, _) | (_, None) => push(out, format_args!("{status}")),
        }
    }
}

/// The status in the trailers or else in the head; or what the HTTP status means.
pub(super) fn status(context: &Context<'_>) -> Option<usize> {
    of_any(context).filter(|_| context.is_grpc)
}

/// As [`status`], whoever asked.
pub(super) fn of_any(context: &Context<'_>) -> Option<usize> {
    let said = |headers: Option<&HeaderMap>| -> Option<usize> {
        headers?.get("grpc-status")?.to_str().ok()?.parse().ok()
    };
    said(context.response_trailers)
        .or_else(|| said(context.response_headers))
        .or_else(|| Some(meant_by(context.response_code?)))
}

/// What a status of HTTP means to gRPC (gRPC, "HTTP to gRPC Status Code Mapping").
fn meant_by(code: u16) -> usize {
    match code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_come_before_the_head_and_both_before_the_status() {
        let with = |status: &str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                status.parse().unwrap(),
            )])
        };
        let (head, trailers) = (with("3"), with("14"));
        let mut context = Context { is_grpc: true, response_code: Some(404), ..Context::default() };
        assert_eq!(status(&context), Some(12));
        context.response_headers = Some(&head);
        assert_eq!(status(&context), Some(3));
        context.response_trailers = Some(&trailers);
        assert_eq!(status(&context), Some(14));
        context.is_grpc = false;
        assert_eq!(status(&context), None);
    }

    #[test]
    fn a_status_has_three_forms() {
        for (form, known, unknown) in [
            ("", "Unavailable", "99"),
            ("SNAKE_STRING", "UNAVAILABLE", "99"),
            ("NUMBER", "14", "99"),
        ] {
            let form = Form::parse(form).unwrap();
            let text = |status| {
                let mut out = String::new();
                form.write(status, &mut out);
                out
            };
            assert_eq!((text(14).as_str(), text(99).as_str()), (known, unknown));
        }
        assert!(Form::parse("x").is_err());
    }
}
