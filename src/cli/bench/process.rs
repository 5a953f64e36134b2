//! What a process has used so far, read from `/proc`.

use std::{fs, path::Path, time::Duration};

use super::Error;

/// What one process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// User and system time, to the clock tick (10 ms as a rule).
    pub(super) cpu: Duration,
    pub(super) resident_bytes: u64,
    /// The most that was resident at once; `None` where the kernel does not say.
    pub(super) peak_bytes: Option<u64>,
    /// Handed to the block layer; `None` where the kernel does not say.
    pub(super) written_bytes: Option<u64>,
}

/// What process `pid` has used; `None` on systems without `/proc`.
pub(super) fn usage(pid: u32) -> Result<Option<Usage>, Error> {
    let folder = Path::new("/proc").join(pid.to_string());
    if !Path::new("/proc/self/stat").exists() {
        return Ok(None);
    }
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path)
            .map_err(|source| Error::io(format!("read {} of the server", path.display()), source))
    };
    let ticks = cpu_ticks(&read("stat")?)
        .ok_or_else(|| Error::unexpected("/proc/PID/stat", "no CPU time in it"))?;
    let pages = resident_pages(&read("statm")?)
        .ok_or_else(|| Error::unexpected("/proc/PID/statm", "no resident size in it"))?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Ok(Some(Usage {
        cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64),
        resident_bytes: pages * rustix::param::page_size() as u64,
        peak_bytes: read("status").ok().as_deref().and_then(peak_bytes),
        written_bytes: read("io").ok().as_deref().and_then(written_bytes),
    }))
}

/// `utime + stime`, fields 14 and 15. The name before them may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn peak_bytes(status: &str) -> Option<u64> {
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

fn written_bytes(io: &str) -> Option<u64> {
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
}

/// Bytes that the files under `folder` take on the disk. Blocks, not lengths: a store lays out its
/// files ahead. What vanishes meanwhile counts nothing.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => bytes_on_disk(&metadata),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(unix)]
fn bytes_on_disk(metadata: &fs::Metadata) -> u64 {
    // POSIX leaves the unit open; every system we run on counts in 512 bytes.
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn bytes_on_disk(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 9 1 2";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("42 (cut"), None);
    }

    #[test]
    fn the_peak_is_told_in_kibibytes() {
        let status = "VmPeak:\t  999 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(peak_bytes(status), Some(2_048 * 1_024));
        assert_eq!(peak_bytes("VmRSS:\t 1024 kB\n"), None);
    }

    #[test]
    fn written_bytes_are_found_beside_their_cancelled_namesakes() {
        let io = "wchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(written_bytes(io), Some(4096));
        assert_eq!(written_bytes("wchar: 1\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_its_processor_time_grows() {
        let before = usage(std::process::id()).unwrap().unwrap();
        assert!(before.resident_bytes > 100_000);
        assert!(before.peak_bytes.unwrap() >= before.resident_bytes / 2);
        let mut sum = 0_u64;
        while usage(std::process::id()).unwrap().unwrap().cpu == before.cpu {
            sum = std::hint::black_box(
                (0..100_000).fold(sum, |sum, next| sum.wrapping_mul(31) + next),
            );
        }
    }

    #[test]
    fn a_folder_is_as_large_as_the_files_in_all_its_depths() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(folder_bytes(&folder.path().join("missing")), 0);
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).unwrap();
        for path in [folder.path().join("a"), deep.join("b")] {
            let file = fs::File::create(path).unwrap();
            std::io::Write::write_all(&mut &file, &[7; 20_000]).unwrap();
            file.sync_all().unwrap();
        }
        let bytes = folder_bytes(folder.path());
        assert!((40_000..200_000).contains(&bytes), "{bytes}");
    }
}
