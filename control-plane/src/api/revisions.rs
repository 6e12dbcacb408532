//! `/v1/revisions`: what was accepted, and the way back.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::apply::{changed, is_true};
use crate::api::news::rollout;
use crate::api::refusal::Refusal;
use crate::api::v1::or_problem;
use crate::api::{Api, who};
use crate::finding::codes;
use crate::store::change::{Change, Committed, StoreError};
use crate::store::history::{Record, Target};

const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// How often a rollback is worked out again when someone else writes at the same time.
const TRIES: usize = 5;

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Paging {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The query of a rollback.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct How {
    dry_run: String,
    reason: Option<String>,
    field_manager: Option<String>,
}

/// `GET /v1/revisions`: the newest first.
pub async fn list(
    State(api): State<Arc<Api>>,
    paging: Result<Query<Paging>, QueryRejection>,
    uri: Uri,
) -> Response {
    let answer = || {
        let Query(paging) =
            paging.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let before = paging.cursor.as_deref().map(number).transpose()?;
        let limit = paging.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
        let records = api.store.revisions(before, limit)?;
        let next = records.last().filter(|last| records.len() == limit && last.number > 1);
        let next = next.map(|last| format!("r{}", last.number));
        let nodes = api.fleet.nodes();
        let item = |record: &Record| {
            let mut item = brief(record);
            item["rollout"] = rollout(record.number, &nodes);
            item
        };
        let items: Vec<Value> = records.iter().map(item).collect();
        Ok(Json(json!({"items": items, "next": next})).into_response())
    };
    or_problem(&uri, answer())
}

/// `GET /v1/revisions/{revision}`: with what changed.
pub async fn one(State(api): State<Arc<Api>>, Path(name): Path<String>, uri: Uri) -> Response {
    let answer = || {
        let record = api.store.revision(number(&name)?)?;
        let mut value = brief(&record);
        let objects: Vec<Value> = record
            .touched
            .iter()
            .map(|touched| {
                json!({
                    "object": touched.target.to_string(), "action": touched.effect,
                    "source": touched.source,
                })
            })
            .collect();
        if let Some(value) = value.as_object_mut() {
            value.insert("objects".into(), objects.into());
        }
        Ok(Json(value).into_response())
    };
    or_problem(&uri, answer())
}

/// `POST /v1/revisions/{revision}:rollback`.
pub async fn act(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    how: Result<Query<How>, QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let Query(how) = how.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let to = match name.split_once(':') {
            Some((revision, "rollback")) => number(revision)?,
            _ => return Err(Refusal::not_found(format!("there is no action {name:?}"))),
        };
        let who = who(how.field_manager.as_deref(), &headers);
        let committed = rollback(&api, to, &how, who).await?;
        Ok(Json(json!({
            "revision": format!("r{}", committed.revision), "changed": changed(&committed),
            "dryRun": is_true(&how.dry_run),
        }))
        .into_response())
    };
    or_problem(&uri, answer.await)
}

async fn rollback(api: &Arc<Api>, to: u64, how: &How, who: String) -> Result<Committed, Refusal> {
    let mut last = None;
    for _ in 0..TRIES {
        let store = api.store.clone();
        let worked_out =
            tokio::task::spawn_blocking(move || store.rollback(to, &|_: &Target| true));
        let change = worked_out.await.map_err(|error| {
            Refusal::new(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                codes::INTERNAL,
                error.to_string(),
            )
        })?;
        let change = Change {
            who: who.clone(),
            why: Some(how.reason.clone().unwrap_or_else(|| format!("rollback to r{to}"))),
            dry_run: is_true(&how.dry_run),
            ..change?
        };
        match api.commit(change).await {
            Err(refusal) if refusal.code == codes::CONFLICT => last = Some(refusal),
            outcome => return outcome,
        }
    }
    Err(last.unwrap_or_else(|| StoreError::NoSuchRevision(to).into()))
}

/// A revision without its pieces.
pub fn brief(record: &Record) -> Value {
    json!({
        "revision": format!("r{}", record.number), "when": record.when, "who": record.who,
        "why": record.why, "origin": record.origin, "summary": record.summary,
    })
}

/// `r184`, or 184.
///
/// # Errors
/// 400.
pub fn number(name: &str) -> Result<u64, Refusal> {
    let digits = name.strip_prefix('r').unwrap_or(name);
    digits
        .parse()
        .map_err(|_| Refusal::bad_request(format!("{name:?} is no revision; r184 is one")))
}
