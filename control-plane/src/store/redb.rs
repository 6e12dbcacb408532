//! The embedded store: one file, one writer, every batch on disk before it is acknowledged.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::{Database, DatabaseError, Durability, ReadableDatabase, TableDefinition, TableError};

use crate::store::backend::{Backend, BackendError, Entry, Put, Table};
use crate::store::change::StoreError;

/// The file in the data directory.
pub const FILE: &str = "weighlock.redb";

/// Tables in a file.
pub struct Redb(Database);

impl std::fmt::Debug for Redb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redb")
    }
}

impl Redb {
    /// Opens the file in this directory; makes both where they are missing, for their owner only.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another server has it, else what the disk says.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed =
            |error: io::Error| StoreError::Backend(format!("{}: {error}", directory.display()));
        if !directory.exists() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        // Secrets lie in it: a folder that was there before is closed to others too.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let path = directory.join(FILE);
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match Database::create(&path) {
            Ok(database) => Ok(Self(database)),
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                Err(StoreError::Locked(directory.to_owned()))
            }
            Err(error) => Err(StoreError::Backend(format!("{}: {error}", path.display()))),
        }
    }

    /// Entries of a range, from its end or from its start.
    fn entries(
        &self,
        table: Table,
        before: Option<&[u8]>,
        limit: usize,
        from_the_end: bool,
    ) -> Result<Vec<Entry>, BackendError> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let range = match before {
            Some(before) => table.range::<&[u8]>(..before),
            None => table.range::<&[u8]>(..),
        };
        let range = range.map_err(failed)?;
        let copy = |entry: Result<(redb::AccessGuard<'_, _>, redb::AccessGuard<'_, _>), _>| {
            let (key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) =
                entry.map_err(failed::<redb::StorageError>)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        if from_the_end {
            range.rev().take(limit).map(copy).collect()
        } else {
            range.take(limit).map(copy).collect()
        }
    }
}

impl Backend for Redb {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let value = table.get(key).map_err(failed)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn newest(
        &self,
        table: Table,
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, BackendError> {
        self.entries(table, before, limit, true)
    }

    fn oldest(&self, table: Table, limit: usize) -> Result<Vec<Entry>, BackendError> {
        self.entries(table, None, limit, false)
    }

    fn write(&self, batch: Vec<Put>) -> Result<(), BackendError> {
        let mut transaction = self.0.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        for part in batch.chunk_by(|a, b| a.table == b.table) {
            let Some(first) = part.first() else { continue };
            let mut table = transaction.open_table(definition(first.table)).map_err(failed)?;
            for Put { key, value, .. } in part {
                match value {
                    Some(value) => drop(table.insert(&key[..], &value[..]).map_err(failed)?),
                    None => drop(table.remove(&key[..]).map_err(failed)?),
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn failed<E: std::fmt::Display>(error: E) -> BackendError {
    BackendError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn both_backends_answer_alike() {
        let directory = tempfile::tempdir().unwrap();
        let file = Redb::open(directory.path()).unwrap();
        for backend in [&file as &dyn Backend, &Memory::default()] {
            assert_eq!(backend.oldest(Table::Objects, 9).unwrap(), []);
            let put = |table, key: &str, value: Option<&str>| Put {
                table,
                key: key.into(),
                value: value.map(Into::into),
            };
            let batch = ["a", "b", "c"].map(|key| put(Table::Objects, key, Some(key)));
            backend.write(batch.into()).unwrap();
            backend
                .write(vec![put(Table::Objects, "b", None), put(Table::Meta, "z", Some("1"))])
                .unwrap();
            let entry = |key: &str| (key.as_bytes().to_vec(), key.as_bytes().to_vec());
            assert_eq!(backend.oldest(Table::Objects, 9).unwrap(), [entry("a"), entry("c")]);
            assert_eq!(backend.newest(Table::Objects, None, 1).unwrap(), [entry("c")]);
            assert_eq!(backend.newest(Table::Objects, Some(b"c"), 9).unwrap(), [entry("a")]);
            assert_eq!(backend.get(Table::Meta, b"z").unwrap(), Some(b"1".to_vec()));
            assert_eq!(backend.get(Table::Objects, b"b").unwrap(), None);
        }
    }

    #[test]
    fn a_second_server_is_refused_and_others_see_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("data");
        let first = Redb::open(&directory).unwrap();
        assert!(matches!(Redb::open(&directory), Err(StoreError::Locked(_))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
        drop(first);
        Redb::open(&directory).unwrap();
    }
}
