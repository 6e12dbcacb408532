//! How much memory is in use, and how much there may be. Files stay open: when no more can be opened,
//! the question is all the more urgent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// The memory that this process has for itself.
#[derive(Debug)]
pub struct OwnMemory(File);

impl OwnMemory {
    /// Looks for it.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/status").map(Self)
    }

    /// Bytes in use, without those of files.
    pub fn bytes(&self) -> Option<u64> {
        kib_of(&text(&self.0)?, "RssAnon:").map(|kib| kib * 1024)
    }
}

/// The memory of this process's control group.
#[derive(Debug)]
pub struct GroupMemory {
    used: File,
    limit: Option<u64>,
}

impl GroupMemory {
    /// Looks for it; `max` is a limit beside that of the group.
    ///
    /// # Errors
    /// When there is no group, or it does not tell.
    pub fn open(max: Option<u64>) -> io::Result<Self> {
        let membership = std::fs::read_to_string("/proc/self/cgroup")?;
        let group = Group::find(Path::new(GROUPS), &membership)
            .ok_or_else(|| io::Error::other("no control group of memory"))?;
        // As in Envoy, `max` alone is no limit.
        let limit = group.limit().map(|limit| limit.min(max.unwrap_or(u64::MAX)));
        Ok(Self { used: File::open(&group.used)?, limit })
    }

    /// How much of the limit is in use; 0 where there is none.
    pub fn pressure(&self) -> Option<f64> {
        let used: u64 = text(&self.used)?.trim().parse().ok()?;
        Some(self.limit.map_or(0.0, |limit| ratio(used, limit)))
    }
}

/// The memory that this process may use: that of its control group, or that of the machine.
pub fn available() -> Option<u64> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = Group::find(Path::new(GROUPS), &membership).and_then(|group| group.limit());
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kib_of(&text, "MemTotal:")).map(|kib| kib * 1024);
    group.into_iter().chain(machine).min()
}

/// A part of a whole.
pub fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a pressure is no exact number")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}

/// Where a control group tells of its memory.
struct Group {
    used: PathBuf,
    /// Its own limit and those of the groups that it is in.
    limits: Vec<PathBuf>,
}

impl Group {
    /// `membership` is `/proc/self/cgroup`. In a container the folder of its group is the root.
    fn find(root: &Path, membership: &str) -> Option<Self> {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_second = controllers.is_empty();
            if !is_second && !controllers.split(',').any(|one| one == "memory") {
                return None;
            }
            let (root, used, limit) = if is_second {
                (root.to_owned(), "memory.current", "memory.max")
            } else {
                (root.join("memory"), "memory.usage_in_bytes", "memory.limit_in_bytes")
            };
            let own = root.join(path.trim_start_matches('/'));
            let folders: Vec<&Path> =
                own.ancestors().take_while(|folder| folder.starts_with(&root)).collect();
            let used = folders.iter().map(|folder| folder.join(used)).find(|file| file.exists())?;
            Some(Self { used, limits: folders.iter().map(|folder| folder.join(limit)).collect() })
        })
    }

    fn limit(&self) -> Option<u64> {
        // The first version has a number near 2^63 where there is none.
        let limits = self.limits.iter().filter_map(|file| {
            let limit: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
            (limit < 1 << 62).then_some(limit)
        });
        limits.min()
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_process_has_some_memory_and_not_all() {
        let own = OwnMemory::open().unwrap();
        let before = own.bytes().unwrap();
        let more = vec![1_u8; 64 << 20];
        assert!(own.bytes().unwrap() > before + (32 << 20), "{}", more.len());
        assert!(before < available().unwrap());
    }

    #[test]
    fn the_tightest_limit_of_the_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("pods/one");
        fs::create_dir_all(&inner).unwrap();
        for (file, text) in [
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("../memory.max", "5000\n"),
            ("../memory.current", "900\n"),
        ] {
            fs::write(inner.join(file), text).unwrap();
        }
        let group = Group::find(root.path(), "0::/pods/one\n").unwrap();
        assert_eq!((group.limit(), group.used), (Some(5000), inner.join("memory.current")));
        // A container does not see where its group is.
        let group = Group::find(root.path(), "0::/elsewhere\n");
        assert!(group.is_none());
        fs::write(root.path().join("memory.current"), "1").unwrap();
        let group = Group::find(root.path(), "0::/elsewhere\n").unwrap();
        assert_eq!(group.limit(), None);
    }

    #[test]
    fn the_first_version_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("memory");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("memory.usage_in_bytes"), "7").unwrap();
        let limit = folder.join("memory.limit_in_bytes");
        fs::write(&limit, "9223372036854771712").unwrap();
        let find = || Group::find(root.path(), "4:cpu:/\n3:memory,hugetlb:/docker/x\n").unwrap();
        assert_eq!(find().limit(), None);
        fs::write(&limit, "8000").unwrap();
        assert_eq!(find().limit(), Some(8000));
    }
}
