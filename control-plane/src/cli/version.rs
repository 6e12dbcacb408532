//! `wlctl version`: this program's, and the control plane's.

use serde_json::{Value, json};

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;

pub(super) async fn run(session: &Session) -> Result<Exit, Problem> {
    let own = env!("CARGO_PKG_VERSION");
    let server = session.client.json(&Ask::get("/version")).await;
    let version = server.as_ref().ok().and_then(|server| server.get("gitVersion"));
    let version = version.and_then(Value::as_str).map(str::to_owned);
    if !session.print_raw(&json!({"client": own, "server": version}))? {
        session.print(&format!("wlctl          {own}\n"))?;
        let shown = version.as_deref().map_or("-", |text| {
            text.split_once("+weighlock.").map_or(text, |(_, version)| version)
        });
        session.print(&format!("control plane  {shown}\n"))?;
    }
    // What this program is, is known in any case; the rest is a failure only when nobody answers.
    server.map(|_| Exit::Done)
}
