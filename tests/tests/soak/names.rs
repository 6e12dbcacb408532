//! A name whose addresses change: the proxy asks a stand-in for a DNS server, which says something else every moment.

use std::time::Duration;

use gateway_tests::dns::{Reply, StandInDns};
use gateway_tests::ports;
use serde_json::{Value, json};
use tokio::time::interval;

use crate::backend::Mortal;
use crate::pushes::guarded;

const NAME: &str = "named.soak.test";
/// How long an answer stands, and how long it says that it is good.
const STANDS: Duration = Duration::from_secs(2);
const TTL: u32 = 1;
/// What the name leads to, in turn: the last numbers of loopback addresses; or nothing, where the server fails.
const ANSWERS: [Option<&[u8]>; 5] = [Some(&[2]), Some(&[2, 3]), None, Some(&[3, 4]), Some(&[4])];

/// The backends behind a name, and who is asked where they are.
#[derive(Debug)]
pub(crate) struct Names {
    backends: Vec<Mortal>,
    dns: StandInDns,
}

impl Names {
    pub(crate) async fn start() -> Self {
        let port = ports::free();
        let mut backends = Vec::new();
        for last in 2..=4 {
            backends.push(Mortal::start_at(([127, 0, 0, last], port).into(), "named").await);
        }
        let names = Self { backends, dns: StandInDns::start().await };
        names.answer(ANSWERS[0]);
        names
    }

    fn answer(&self, lasts: Option<&[u8]>) {
        let reply = lasts.map_or(Reply::Failure, |lasts| {
            Reply::Addresses(lasts.iter().map(|last| [127, 0, 0, *last].into()).collect(), TTL)
        });
        self.dns.say(NAME, reply);
    }

    pub(crate) fn cluster(&self) -> Value {
        let place = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
        let (port, dns) = (self.backends[0].address.port(), self.dns.address);
        let cares = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
        let mut cluster = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "named", "type": "STRICT_DNS",
            "dns_lookup_family": "V4_ONLY", "respect_dns_ttl": true, "dns_refresh_rate": "3600s",
            "dns_failure_refresh_rate": {"base_interval": "0.2s", "max_interval": "0.5s"},
            "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
                "@type": cares, "resolvers": [place("127.0.0.1", dns.port())]}},
            "load_assignment": {"cluster_name": "named", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": place(NAME, port)}}]}]},
        });
        guarded(&mut cluster);
        cluster
    }

    /// Gives the next answer again and again, until it is aborted.
    pub(crate) async fn change(self) {
        let mut turns = interval(STANDS);
        for answer in ANSWERS.into_iter().cycle() {
            turns.tick().await;
            self.answer(answer);
        }
    }
}
