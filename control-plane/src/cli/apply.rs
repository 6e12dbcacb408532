//! `wlctl apply`: files as one bundle, one revision.

use http::Method;

use super::client::Ask;
use super::problem::{Exit, Problem};
use super::session::Session;
use super::{ApplyArgs, files, rollout};

pub(super) async fn run(session: &Session, args: &ApplyArgs) -> Result<Exit, Problem> {
    let files = files::read(&args.files)?;
    let mut ask = Ask { method: Method::POST, ..Ask::get("/v1/apply") };
    ask.body = Some(files::multipart(&files));
    ask = ask.query("namespace", session.namespace.as_str());
    for (name, value) in
        [("owner", &args.owner), ("ifRevision", &args.if_revision), ("reason", &args.reason)]
    {
        if let Some(value) = value {
            ask = ask.query(name, value.as_str());
        }
    }
    if args.prune {
        ask = ask.query("prune", "true");
    }
    if args.dry_run {
        ask = ask.query("dryRun", "true");
    } else {
        ask = rollout::waiting(ask, args.wait.limit(session.timeout));
    }
    let answer = rollout::change(session, &ask).await?;
    let summary = rollout::summary(&answer);
    let what = match (args.dry_run, summary.as_str()) {
        (true, _) => format!("stays, this is a dry run: {summary}"),
        (false, "nothing to change") => "unchanged: nothing to change".to_owned(),
        (false, _) => format!("applied: {summary}"),
    };
    rollout::report(session, &answer, &what)
}
