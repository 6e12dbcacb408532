//! How the replies that the proxy makes itself are rewritten (`local_reply_config`).

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::log::{LineFormat, LogFilter};
use crate::format::Context;
use crate::format::mutation::{HeaderMutations, Side};

/// The rewriting of all local replies of a chain.
#[derive(Debug, Default)]
pub struct LocalReplies {
    /// The first whose filter holds changes the reply.
    pub mappers: Box<[ReplyMapper]>,
    /// What every body becomes; none leaves bodies as they are.
    pub format: Option<BodyFormat>,
}

/// What some replies become.
#[derive(Debug)]
pub struct ReplyMapper {
    /// Which replies.
    pub filter: LogFilter,
    /// Another status.
    pub status: Option<StatusCode>,
    /// Another body; formats read it as `%LOCAL_REPLY_BODY%`.
    pub body: Option<Box<str>>,
    /// Another format than that of all replies.
    pub format: Option<BodyFormat>,
    /// Changes of the headers.
    pub headers: HeaderMutations,
}

/// What a body becomes, and how it is called then.
#[derive(Debug, Clone)]
pub struct BodyFormat {
    /// What it says.
    pub line: LineFormat,
    /// Its content type.
    pub content_type: HeaderValue,
}

/// A reply while it is rewritten.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a mut HeaderMap,
    /// Its body.
    pub body: String,
}

impl LocalReplies {
    /// Whether replies stay as they are.
    pub fn is_empty(&self) -> bool {
        self.mappers.is_empty() && self.format.is_none()
    }

    /// Rewrites a reply. What is read of the reply in `context` is set here.
    pub fn rewrite(&self, draft: &mut Draft<'_>, context: &Context<'_>) {
        let mut context = Context { response_code: Some(draft.status.as_u16()), ..*context };
        let mapper = self.mappers.iter().find(|mapper| mapper.filter.logs(&context));
        let mut format = self.format.as_ref();
        if let Some(mapper) = mapper {
            if let Some(status) = mapper.status {
                draft.status = status;
                context.response_code = Some(status.as_u16());
            }
            if let Some(body) = &mapper.body {
                draft.body = body.to_string();
                name_type(draft.headers, &draft.body, &HeaderValue::from_static("text/plain"));
            }
            mapper.headers.apply(draft.headers, Side::Response, &context);
            format = mapper.format.as_ref().or(format);
        }
        let Some(format) = format else { return };
        let before = std::mem::take(&mut draft.body);
        let context =
            Context { local_reply_body: &before, response_headers: Some(draft.headers), ..context };
        format.line.write(&context, &mut draft.body);
        if draft.body != before {
            name_type(draft.headers, &draft.body, &format.content_type);
        }
    }
}

fn name_type(headers: &mut HeaderMap, body: &str, content_type: &HeaderValue) {
    if body.is_empty() {
        headers.remove(CONTENT_TYPE);
    } else {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
}
