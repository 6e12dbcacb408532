//! Takes in the whole body of a request before it goes on, up to a limit.
//!
//! API: `envoy.extensions.filters.http.buffer.v3.Buffer`.

use http::Request;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use xds_proto::envoy::extensions::filters::http::buffer::v3 as api;
use xds_proto::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;
use xds_proto::field::{At, FieldError, required};
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::collect::{Collected, collect};
use crate::filtering::keep::{Linked, Linker};
use crate::filtering::stage::Stage;
use crate::telemetry::why::Why;

/// The largest body that is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    bytes_max: usize,
}

impl HttpFilter for Buffer {
    type Config = api::Buffer;
    type RouteConfig = api::BufferPerRoute;
    /// None has nothing taken in.
    type Route = Option<Self>;

    fn compile(config: Self::Config) -> Result<Self, FieldError> {
        fields!(config: api::Buffer, read: [max_request_bytes], ignore: [], refuse: []);
        let bytes_max = required(max_request_bytes, "max_request_bytes")?.value;
        if bytes_max == 0 {
            return Err(FieldError::invalid("must be above 0")).at("max_request_bytes");
        }
        Ok(Self { bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) })
    }

    fn compile_route(config: Self::RouteConfig) -> Result<Self::Route, FieldError> {
        match required(config.r#override, "override")? {
            Override::Disabled(true) => Ok(None),
            Override::Disabled(false) => Err(FieldError::invalid("must be true")).at("disabled"),
            Override::Buffer(buffer) => Self::compile(buffer).map(Some).at("buffer"),
        }
    }

    fn link(&self, routes: &[&Self::Route], _: &mut Linker<'_>) -> Linked<Self> {
        match routes.last() {
            None => Linked::Same,
            Some(None) => Linked::Off,
            Some(Some(route)) => Linked::New(*route),
        }
    }

    async fn on_request(&self, request: &mut Request<Body>, _: &mut Stage<'_>) -> Verdict {
        if request.body().is_empty() {
            return Verdict::Continue;
        }
        let said = http_body::Body::size_hint(request.body()).lower();
        if usize::try_from(said).is_ok_and(|said| said > self.bytes_max) {
            return Verdict::refuse(Why::PayloadTooLarge);
        }
        let body = std::mem::take(request.body_mut());
        match collect(body, self.bytes_max).await {
            Ok(whole @ Collected::Whole { .. }) => {
                let headers = request.headers_mut();
                headers.remove(TRANSFER_ENCODING);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.data().len()));
                *request.body_mut() = whole.into_body();
                Verdict::Continue
            }
            Ok(Collected::Start { .. }) => Verdict::refuse(Why::PayloadTooLarge),
            Err(_) => Verdict::refuse(Why::BadRequest),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use xds_proto::json::from_yaml;

    use super::*;
    use crate::filtering::collect::testing::frames;
    use crate::filtering::stage::testing::Scene;

    async fn run(bytes_max: usize, body: Body) -> (Verdict, Request<Body>) {
        let mut request = Request::new(body);
        let mut scene = Scene::default();
        let filter = Buffer { bytes_max };
        let verdict = filter.on_request(&mut request, &mut scene.stage()).await;
        (verdict, request)
    }

    #[tokio::test]
    async fn a_body_within_the_limit_goes_on_whole() {
        let (verdict, request) = run(6, frames(&["abc", "def"], &[])).await;
        assert!(matches!(verdict, Verdict::Continue));
        assert_eq!(request.headers()[CONTENT_LENGTH], "6");
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_larger_one_is_refused() {
        for body in [frames(&["abc", "def"], &[]), Body::full("abcdef")] {
            let (verdict, _) = run(5, body).await;
            assert!(
                matches!(verdict, Verdict::Reply(reply) if reply.why == Why::PayloadTooLarge && reply.response.status() == 413)
            );
        }
    }

    #[test]
    fn a_route_may_have_another_limit_or_none() {
        let filter = Buffer { bytes_max: 1 };
        let route = |text: &str| Buffer::compile_route(from_yaml(text).unwrap());
        let link = |route: &Option<Buffer>| {
            crate::filtering::keep::testing::alone(|linker| filter.link(&[route], linker))
        };
        let larger = route("{buffer: {max_request_bytes: 9}}").unwrap();
        assert!(matches!(link(&larger), Linked::New(Buffer { bytes_max: 9 })));
        assert!(matches!(link(&route("{disabled: true}").unwrap()), Linked::Off));
        assert_eq!(
            route("{buffer: {}}").unwrap_err().to_string(),
            "buffer.max_request_bytes: required"
        );
    }
}
