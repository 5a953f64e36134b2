//! Looks through fjall's journal files before fjall opens them.
//!
//! fjall takes whatever it cannot read for the torn end of a write and cuts the file there, or
//! refuses it all. A damaged byte further up would so cost, silently, every batch behind it; and a
//! power failure, after which the pages of a write are on the disk in any order, would cost the
//! whole store. Here the two are told apart, and what is torn is cut off. Torn can only be the last
//! file, since a file is synced before the next is begun, of a folder that was not closed in order:
//!
//! - where each batch was synced before the next was written, it is the last batch, and it has no
//!   end or misses a page;
//! - where batches were answered before they were synced, any page of them may be missing, and the
//!   file ends before the first batch that is not whole. What was answered may be lost so, as that
//!   durability says, and a new epoch begins.
//!
//! A known limit: a page that a power failure lost reads as zeros, and so may one that was synced and
//! that the disk lost later. Where this is the page in which the last batch begins, and the last is
//! longer, it is taken for torn together with those before it that have a part in that page.
//!
//! What has become a table has checksums that fjall checks at each read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::{
    batches::{Batch, Batches, LastHead, ends, has_whole},
    folder::{Folder, Left},
};
use crate::journal::OpenError;

const CHUNK: usize = 64 << 10;
const PAGE: usize = 4_096;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Cuts off what is torn and refuses damaged journal files.
pub(super) fn journal_files(folder: &Folder, left: Left) -> Result<(), OpenError> {
    let fails = |error: io::Error| folder.io("read its journal", &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder.journal()).map_err(fails)? {
        let path = entry.map_err(fails)?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_: &u64| path.extension() == Some("jnl".as_ref())) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    // There is always one, and they go from the oldest on.
    let missing = match files.first() {
        None => Some("has no file".to_owned()),
        Some(_) => files
            .windows(2)
            .find(|pair| pair[0].0 + 1 < pair[1].0)
            .map(|pair| format!("lacks file {}.jnl", pair[0].0 + 1)),
    };
    if let Some(missing) = missing {
        return Err(OpenError::Io {
            path: folder.name(),
            problem: format!("its journal {missing}: restore the folder from a backup"),
        });
    }
    let (mut head, mut sequence) = (None, 0);
    for (place, (_, path)) in files.iter().enumerate() {
        // The others were synced before the next was begun.
        let last = place + 1 == files.len();
        let left = if last { left } else { Left::Closed };
        match read_file(path, left, &mut head, &mut sequence).map_err(fails)? {
            Found::Whole => {}
            Found::Torn { at, bytes } => {
                cut(path, at).map_err(|error| folder.io("cut its journal", &error))?;
                tracing::warn!(
                    file = %path.display(), at, bytes,
                    "cut off what was being written when the store ended out of order"
                );
            }
            Found::Damaged { at, problem } => {
                return Err(damaged(folder, path, at, problem, head));
            }
        }
    }
    Ok(())
}

fn damaged(folder: &Folder, path: &Path, at: u64, problem: &str, head: LastHead) -> OpenError {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let problem = format!(
        "file journal/{file} of data folder {} is damaged in the batch at byte {at}, {problem}: restore the folder from a backup",
        folder.name()
    );
    match head {
        Some((namespace, head)) => OpenError::Damaged {
            namespace,
            revision: head.next(),
            problem,
        },
        None => OpenError::Io {
            path: folder.name(),
            problem,
        },
    }
}

/// Not left to fjall, which would look for its own idea of the end.
fn cut(path: &Path, at: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(at)?;
    file.sync_all()
}

/// How a file was found.
enum Found {
    Whole,
    /// So much from there on is not whole, and was never to be relied on.
    Torn {
        at: u64,
        bytes: u64,
    },
    Damaged {
        at: u64,
        problem: &'static str,
    },
}

fn read_file(
    path: &Path,
    left: Left,
    head: &mut LastHead,
    sequence: &mut u64,
) -> io::Result<Found> {
    let file = BufReader::with_capacity(CHUNK, File::open(path)?);
    let mut batches = Batches::new(file, *sequence);
    let (at, batch) = loop {
        let at = batches.at;
        match batches.batch()? {
            Batch::Whole(found) => {
                if found.is_some() {
                    *head = found;
                }
            }
            batch => break (at, batch),
        }
    };
    *sequence = batches.sequence;
    let read = batches.at;
    let mut file = batches.into_inner().into_inner();
    let end = end(&mut file, at)?;
    if end == at {
        return Ok(Found::Whole);
    }
    let torn = Found::Torn {
        at,
        bytes: end - at,
    };
    let damage = |problem| Ok(Found::Damaged { at, problem });
    let order = "whose checksum or place in the order is wrong";
    match (batch, left) {
        (_, Left::Doubtful) => Ok(torn),
        (Batch::Mismatch, Left::Closed) => damage(order),
        (Batch::Mismatch, Left::Open) => {
            match read == end && misses_a_page(&rest(&mut file, at, end)?, at) {
                true => Ok(torn),
                false => damage(order),
            }
        }
        (_, Left::Closed) => match ends(&rest(&mut file, at, end)?) {
            true => damage("which cannot be read, though an end is behind it"),
            false => damage("which has no end"),
        },
        (_, Left::Open) => {
            let rest = rest(&mut file, at, end)?;
            // Whatever was answered is whole, and it was all there when the last was written.
            if has_whole(&rest, *sequence) || ends(&rest) && !misses_a_page(&rest, at) {
                return damage("which cannot be read, though an end is behind it");
            }
            Ok(torn)
        }
    }
}

/// Behind the last byte from there on that is not zero.
fn end(file: &mut File, from: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut chunk = vec![0; CHUNK];
    let (mut at, mut end) = (from, from);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(end);
        }
        if chunk[..read] != ZEROS[..read] {
            let last = chunk[..read].iter().rposition(|byte| *byte != 0);
            end = at + last.map_or(0, |last| last as u64 + 1);
        }
        at += read as u64;
    }
}

fn rest(file: &mut File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(to - from).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a page of the file is missing in what begins at `from`: where the power fails during a
/// write, its end may reach the disk before its middle.
fn misses_a_page(bytes: &[u8], from: u64) -> bool {
    let place = usize::try_from(from % PAGE as u64).unwrap_or(0);
    let first = ((PAGE - place) % PAGE).min(bytes.len());
    let (begins, pages) = bytes.split_at(first);
    // Of the page it begins in there is what was synced with the batch before.
    let begins = first > 0 && begins == &ZEROS[..first];
    begins || pages.chunks_exact(PAGE).any(|page| *page == ZEROS[..PAGE])
}
