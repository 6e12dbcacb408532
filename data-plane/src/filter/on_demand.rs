//! `envoy.filters.http.on_demand`: a request whose virtual host is not there yet waits for it.

use http::Request;
use xds_proto::envoy::extensions::filters::http::on_demand::v3 as api;
use xds_proto::field::FieldError;
use xds_proto::fields;

use super::HttpFilter;
use crate::body::Body;
use crate::filtering::Verdict;
use crate::filtering::on_demand::Answer;
use crate::filtering::stage::Stage;
use crate::telemetry::why::Why;

/// The filter. It has nothing to set: clusters on demand (`odcds`) are refused.
#[derive(Debug)]
pub struct OnDemand;

impl HttpFilter for OnDemand {
    type Config = api::OnDemand;
    type RouteConfig = api::PerRouteConfig;
    type Route = ();

    fn compile(config: api::OnDemand) -> Result<Self, FieldError> {
        fields!(config: api::OnDemand, read: [], ignore: [], refuse: [odcds]);
        Ok(Self)
    }

    fn compile_route(config: api::PerRouteConfig) -> Result<(), FieldError> {
        fields!(config: api::PerRouteConfig, read: [], ignore: [], refuse: [odcds]);
        Ok(())
    }

    async fn on_request(&self, _request: &mut Request<Body>, stage: &mut Stage<'_>) -> Verdict {
        let Some(missing) = &stage.missing_host else { return Verdict::Continue };
        match missing.ask().await {
            Answer::There => {
                stage.notes.begins_again = true;
                Verdict::Continue
            }
            Answer::Absent => Verdict::Continue,
            Answer::Full => Verdict::refuse(Why::OnDemandOverflow),
            Answer::TooLate => Verdict::refuse(Why::VirtualHostTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::filtering::on_demand::{Desk, MissingHost};
    use crate::filtering::stage::testing::Scene;

    /// The verdict, and whether the request begins again.
    async fn verdict(answer: Answer) -> (Verdict, bool) {
        let (desk, mut asks) = Desk::new();
        let table: Arc<str> = "r".into();
        let (mut request, mut scene) = (Request::new(Body::empty()), Scene::default());
        let mut stage = scene.stage();
        stage.missing_host = Some(MissingHost { desk: &desk, table: &table, host: "a.test" });
        let answered = async { asks.recv().await.unwrap().reply.send(answer).unwrap() };
        let (verdict, ()) = tokio::join!(OnDemand.on_request(&mut request, &mut stage), answered);
        (verdict, scene.notes.begins_again)
    }

    #[tokio::test]
    async fn a_request_starts_again_when_its_host_is_there() {
        assert!(matches!(verdict(Answer::There).await, (Verdict::Continue, true)));
        assert!(matches!(verdict(Answer::Absent).await, (Verdict::Continue, false)));
        for (answer, want) in
            [(Answer::Full, Why::OnDemandOverflow), (Answer::TooLate, Why::VirtualHostTimeout)]
        {
            let (verdict, begins_again) = verdict(answer).await;
            assert!(matches!(verdict, Verdict::Reply(reply) if reply.why == want) && !begins_again);
        }
    }

    #[tokio::test]
    async fn a_request_with_a_host_goes_on() {
        let (mut request, mut scene) = (Request::new(Body::empty()), Scene::default());
        let verdict = OnDemand.on_request(&mut request, &mut scene.stage()).await;
        assert!(matches!(verdict, Verdict::Continue));
    }

    #[test]
    fn clusters_are_not_asked_for_on_demand() {
        let odcds = || Some(api::OnDemandCds::default());
        let error = OnDemand::compile(api::OnDemand { odcds: odcds() }).unwrap_err();
        assert_eq!(error.to_string(), "odcds: not supported");
        let error = OnDemand::compile_route(api::PerRouteConfig { odcds: odcds() }).unwrap_err();
        assert_eq!(error.to_string(), "odcds: not supported");
    }
}
