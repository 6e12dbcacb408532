//! A store that forgets: for trials and tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::backend::{Backend, BackendError, Entry, Put, Table};

type Tables = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Tables in memory.
#[derive(Default)]
pub struct Memory(Mutex<Tables>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.tables().get(&(table, key.to_vec())).cloned())
    }

    fn newest(
        &self,
        table: Table,
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, BackendError> {
        let tables = self.tables();
        let entries = tables.iter().rev().filter(|((of, key), _)| {
            *of == table && before.is_none_or(|before| key.as_slice() < before)
        });
        Ok(entries.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn oldest(&self, table: Table, limit: usize) -> Result<Vec<Entry>, BackendError> {
        let tables = self.tables();
        let entries = tables.range((table, Vec::new())..).take_while(|((of, _), _)| *of == table);
        Ok(entries.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, batch: Vec<Put>) -> Result<(), BackendError> {
        let mut tables = self.tables();
        for Put { table, key, value } in batch {
            match value {
                Some(value) => drop(tables.insert((table, key), value)),
                None => drop(tables.remove(&(table, key))),
            }
        }
        Ok(())
    }
}
