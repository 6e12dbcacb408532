//! The descriptors of every message we can name: Envoy's, and our own.
//!
//! Decoding them takes about a tenth of a second and 45 MiB, and only where YAML or JSON is read or
//! written. They are kept until somebody [releases](release) them.

use std::io::Read;
use std::sync::{Mutex, PoisonError, RwLock};

use flate2::read::ZlibDecoder;
use prost_reflect::{DescriptorPool, MessageDescriptor};

static ENVOY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.fds.z"));
static OURS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ours.fds.z"));

static POOL: RwLock<Option<DescriptorPool>> = RwLock::new(None);

/// The descriptor of a message by its full name, `envoy.config.cluster.v3.Cluster`.
pub fn by_name(full_name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(full_name)
}

/// The descriptor that a type URL names: what follows its last `/`.
pub fn by_type_url(type_url: &str) -> Option<MessageDescriptor> {
    by_name(type_url.rsplit('/').next()?)
}

/// The full names of all messages, in no order.
pub fn names() -> impl Iterator<Item = String> {
    let pool = pool();
    let names: Vec<_> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
    names.into_iter()
}

/// Gives back the memory of the descriptors, once nobody holds one. Who asks for one after that has
/// them decoded again.
pub fn release() {
    let released = POOL.write().unwrap_or_else(PoisonError::into_inner).take();
    let released = Mutex::new(released);
    apart(|| drop(released.lock().unwrap_or_else(PoisonError::into_inner).take()));
}

fn pool() -> DescriptorPool {
    if let Some(pool) = &*POOL.read().unwrap_or_else(PoisonError::into_inner) {
        return pool.clone();
    }
    let mut pool = POOL.write().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| apart(decode)).clone()
}

/// Works on a thread of its own. glibc's allocator has it take its memory elsewhere than others do,
/// so that what is freed does not lie between what stays, and can go back to the system.
fn apart<T: Send>(work: impl Fn() -> T + Send + Sync) -> T {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().spawn_scoped(scope, &work);
        worker.ok().and_then(|worker| worker.join().ok()).unwrap_or_else(&work)
    })
}

fn decode() -> DescriptorPool {
    let mut pool = DescriptorPool::new();
    for set in [ENVOY, OURS] {
        let mut bytes = Vec::new();
        // The bytes are part of this program, and a unit test decodes them.
        let read = ZlibDecoder::new(set).read_to_end(&mut bytes);
        let decoded = pool.decode_file_descriptor_set(&*bytes);
        debug_assert!(read.is_ok() && decoded.is_ok(), "descriptor set: {read:?} {decoded:?}");
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_descriptor_sets_decode() {
        assert!(by_name("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(by_type_url("type.googleapis.com/xds.type.v3.TypedStruct").is_some());
        assert!(by_name("weighlock.state.v1.SavedState").is_some());
        assert!(names().count() > 1500);
    }

    #[test]
    fn descriptors_come_back_after_their_release() {
        let held = by_name("envoy.config.bootstrap.v3.Bootstrap");
        release();
        assert!(held.is_some_and(|held| held.fields().len() > 10));
        assert!(by_name("envoy.config.bootstrap.v3.Bootstrap").is_some());
    }
}
