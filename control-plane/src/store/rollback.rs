//! The way back to a revision: the writes that undo what came after it.

use std::collections::BTreeMap;

use xds_proto::resource::{Resource, ResourceType};

use crate::store::change::{Action, Change, GroupAction, GroupWrite, Origin, StoreError, Write};
use crate::store::history::{ContentHash, Target};
use crate::store::journal::Journal;
use crate::store::state::State;

/// The change that brings back the content of a revision, for the targets that are wanted. It holds
/// only as long as `state` is the newest.
///
/// # Errors
/// When the revision is not kept, or the journal cannot be read.
pub(crate) fn rollback(
    journal: &Journal,
    state: &State,
    to: u64,
    is_wanted: &dyn Fn(&Target) -> bool,
) -> Result<Change, StoreError> {
    if to > state.revision {
        return Err(StoreError::NoSuchRevision(to));
    }
    let mut back: BTreeMap<Target, Option<ContentHash>> = BTreeMap::new();
    for number in (to + 1..=state.revision).rev() {
        for piece in journal.revision(number)?.touched {
            if is_wanted(&piece.target) {
                back.insert(piece.target, piece.before);
            }
        }
    }
    let mut change =
        Change { origin: Origin::Rollback, if_revision: Some(state.revision), ..Change::default() };
    let mut groups = BTreeMap::new();
    for (target, content) in back {
        match &target {
            Target::Object { .. } => {
                change.writes.extend(object(journal, state, &target, content)?)
            }
            Target::Group { name } => {
                let label = content.map(|hash| journal.content(hash)).transpose()?;
                let label = label.map(|label| String::from_utf8_lossy(&label).into_owned());
                groups.entry(name.clone()).or_insert_with(|| RawChange::of(state, name)).label =
                    label;
            }
            Target::Resource { group, r#type, name } => {
                let Some(kind) = ResourceType::from_type_url(r#type) else { continue };
                let raw =
                    groups.entry(group.clone()).or_insert_with(|| RawChange::of(state, group));
                match content {
                    None => drop(raw.resources.remove(&(kind, name.as_str().into()))),
                    Some(hash) => {
                        let bytes = journal.content(hash)?;
                        let resource = Resource::from_bytes(r#type, &bytes)
                            .map_err(|error| StoreError::Backend(error.to_string()))?;
                        raw.resources.insert((kind, resource.name.clone()), resource);
                    }
                }
            }
        }
    }
    change.groups = groups.into_iter().filter_map(|(name, raw)| raw.write(state, name)).collect();
    Ok(change)
}

fn object(
    journal: &Journal,
    state: &State,
    target: &Target,
    content: Option<ContentHash>,
) -> Result<Option<Write>, StoreError> {
    let Some(key) = target.key() else { return Ok(None) };
    let action = match content {
        Some(hash) => {
            let bytes = journal.content(hash)?;
            let value = serde_json::from_slice(&bytes);
            Action::Put(value.map_err(|error| StoreError::Backend(error.to_string()))?)
        }
        None if state.objects.get(&key).is_some() => Action::Delete,
        None => return Ok(None),
    };
    Ok(Some(Write::to(key, action)))
}

struct RawChange {
    label: Option<String>,
    resources: BTreeMap<(ResourceType, std::sync::Arc<str>), Resource>,
}

impl RawChange {
    fn of(state: &State, name: &str) -> Self {
        let group = state.raw_groups.get(name);
        Self {
            label: group.map(|group| group.label.clone()),
            resources: group.map(|group| group.resources.clone()).unwrap_or_default(),
        }
    }

    fn write(self, state: &State, name: String) -> Option<GroupWrite> {
        let action = match self.label {
            Some(label) => {
                GroupAction::Replace { label, resources: self.resources.into_values().collect() }
            }
            None if state.raw_groups.contains_key(&name) => GroupAction::Delete,
            None => return None,
        };
        Some(GroupWrite { name, action })
    }
}
