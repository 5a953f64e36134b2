//! Looks through fjall's journal files before fjall opens them.
//!
//! fjall takes whatever it cannot read for the torn end of a write and cuts the file there. That is
//! right for what a crash leaves: the last batch without its end. But a damaged byte further up
//! would so cost, silently, every batch behind it. Here the two are told apart: a torn batch is the
//! last of the last file, of a folder that was not closed in order, and has no end.
//!
//! The format is fjall 3's: batches of a start (tag 1, the number of items, a sequence number),
//! items (tag 2; 4 clears a keyspace), and an end (tag 3, the xxh3 of the items, a magic text);
//! behind the last batch zeros or nothing. What has become a table has checksums that fjall checks
//! at each read.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::folder::Folder;
use crate::{
    domain::{NamespaceId, Revision},
    journal::OpenError,
};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8; 4] = b"FJL\x03";
const CHUNK: usize = 64 << 10;

/// What was read last in one piece: a namespace and its head.
type LastHead = Option<(String, Revision)>;

/// Refuses damaged journal files. `closed`: the folder was closed in order, so nothing is torn.
pub(super) fn journal_files(folder: &Folder, closed: bool) -> Result<(), OpenError> {
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
    let (mut head, mut sequence) = (None, 0);
    for (place, (_, path)) in files.iter().enumerate() {
        let may_be_torn = !closed && place + 1 == files.len();
        let found = read_file(path, may_be_torn, &mut head, &mut sequence).map_err(fails)?;
        if let Some(problem) = found {
            return Err(damaged(folder, path, problem, head));
        }
    }
    Ok(())
}

/// Where and how a file is damaged.
struct Damage {
    at: u64,
    problem: &'static str,
}

fn damaged(folder: &Folder, path: &Path, damage: Damage, head: LastHead) -> OpenError {
    let Damage { at, problem } = damage;
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

fn read_file(
    path: &Path,
    may_be_torn: bool,
    head: &mut LastHead,
    sequence: &mut u64,
) -> io::Result<Option<Damage>> {
    let mut reader = Reader {
        file: BufReader::with_capacity(CHUNK, File::open(path)?),
        at: 0,
        sum: Xxh3::new(),
        value: Vec::new(),
        sequence,
    };
    loop {
        let at = reader.at;
        match reader.batch()? {
            Batch::Whole(found) => {
                if found.is_some() {
                    *head = found;
                }
            }
            Batch::Mismatch => {
                let problem = "whose checksum or place in the order is wrong";
                return Ok(Some(Damage { at, problem }));
            }
            Batch::Broken => {
                let mut file = reader.file.into_inner();
                let problem = match rest(&mut file, at)? {
                    Rest::Zeros => return Ok(None),
                    Rest::Ends if may_be_torn && lacks_a_page(&mut file, at)? => return Ok(None),
                    Rest::Torn if may_be_torn => return Ok(None),
                    Rest::Torn => "which has no end",
                    Rest::Ends => "which cannot be read, though an end is behind it",
                };
                return Ok(Some(Damage { at, problem }));
            }
        }
    }
}

enum Batch {
    Whole(LastHead),
    /// It was read, and is not what was written.
    Mismatch,
    /// It cannot be read, or there is none.
    Broken,
}

struct Reader<'a> {
    file: BufReader<File>,
    at: u64,
    sum: Xxh3,
    value: Vec<u8>,
    /// Of the batch before.
    sequence: &'a mut u64,
}

impl Reader<'_> {
    fn batch(&mut self) -> io::Result<Batch> {
        match self.read_batch() {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => Ok(Batch::Broken),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Batch::Broken),
            Err(error) => Err(error),
        }
    }

    /// None: it is no batch.
    fn read_batch(&mut self) -> io::Result<Option<Batch>> {
        let [tag] = self.array()?;
        if tag != START {
            return Ok(None);
        }
        let items = u32::from_le_bytes(self.array()?);
        // No sum covers it; it only rises.
        let sequence = u64::from_le_bytes(self.array()?);
        let rises = sequence >= *self.sequence;
        self.sum = Xxh3::new();
        let mut head = None;
        for _ in 0..items {
            let [tag] = self.summed()?;
            let read = match tag {
                ITEM => self.item(&mut head)?,
                CLEAR => {
                    let _keyspace: [u8; 8] = self.summed()?;
                    true
                }
                _ => false,
            };
            if !read {
                return Ok(None);
            }
        }
        let [tag] = self.array()?;
        let expected = u64::from_le_bytes(self.array()?);
        let magic: [u8; 4] = self.array()?;
        if tag != END || magic != *MAGIC {
            return Ok(None);
        }
        let right = rises && self.sum.digest() == expected;
        *self.sequence = sequence;
        Ok(Some(if right {
            Batch::Whole(head)
        } else {
            Batch::Mismatch
        }))
    }

    /// False: it is none.
    fn item(&mut self, head: &mut LastHead) -> io::Result<bool> {
        let [_kind, compression] = self.summed()?;
        let _keyspace: [u8; 8] = self.summed()?;
        let key = u16::from_le_bytes(self.summed()?);
        let value = u32::from_le_bytes(self.summed()?);
        let stored = u32::from_le_bytes(self.summed()?);
        // Nothing is compressed in the journal.
        if compression != 0 || value != stored {
            return Ok(false);
        }
        self.bytes(u64::from(key))?;
        // In the keyspace of the heads a name has a revision; elsewhere keys are no names.
        let name = str::from_utf8(&self.value).unwrap_or_default();
        let name = NamespaceId::parse(name).ok();
        self.bytes(u64::from(value))?;
        if let (Some(name), Ok(revision)) = (name, self.value.as_slice().try_into()) {
            *head = Some((name.to_string(), Revision(u64::from_be_bytes(revision))));
        }
        Ok(true)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn summed<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.array()?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    /// Into `value`. A wrong length costs no more than the file has.
    fn bytes(&mut self, length: u64) -> io::Result<()> {
        self.value.clear();
        let read = (&mut self.file).take(length).read_to_end(&mut self.value)? as u64;
        self.at += read;
        self.sum.update(&self.value);
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// What is from the first batch that cannot be read to the end of the file.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing was ever written there.
    Zeros,
    /// A beginning without an end.
    Torn,
    /// There is the end of a batch in it.
    Ends,
}

/// Tag, checksum, magic.
const END_BYTES: usize = 1 + 8 + 4;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Whether the batch at `from` is the last of the file and misses a page: where the power fails
/// during a write, its pages reach the disk in any order, its end perhaps before its middle.
fn lacks_a_page(file: &mut File, from: u64) -> io::Result<bool> {
    const PAGE: usize = 4_096;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let length = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes.truncate(length);
    let Some(end) = length
        .checked_sub(END_BYTES)
        .filter(|_| bytes.ends_with(MAGIC))
    else {
        return Ok(false);
    };
    // Pages are counted from the beginning of the file.
    let place = usize::try_from(from % PAGE as u64).unwrap_or(0);
    let first = (PAGE - place) % PAGE;
    let mut pages = bytes[first.min(length)..].chunks_exact(PAGE);
    // The page it begins in may be the one.
    let begins = bytes[..first.min(length)].iter().all(|byte| *byte == 0) && first > 0;
    Ok(!find_end(&bytes, end) && (begins || pages.any(|page| *page == ZEROS[..PAGE])))
}

fn rest(file: &mut File, from: u64) -> io::Result<Rest> {
    file.seek(SeekFrom::Start(from))?;
    let mut found = Rest::Zeros;
    let mut chunk = vec![0; CHUNK];
    // What was read, less what was searched.
    let mut window = Vec::with_capacity(2 * CHUNK);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(
                match find_end(&window, window.len().saturating_sub(END_BYTES - 1)) {
                    true => Rest::Ends,
                    false => found,
                },
            );
        }
        if chunk[..read] != ZEROS[..read] {
            found = Rest::Torn;
        } else if found == Rest::Zeros {
            continue;
        }
        window.extend_from_slice(&chunk[..read]);
        // An end is judged by the byte behind it too.
        let searched = window.len().saturating_sub(END_BYTES);
        if find_end(&window, searched) {
            return Ok(Rest::Ends);
        }
        window.drain(..searched);
    }
}

/// Whether one of the first `places` begins the end of a batch, with nothing or a batch behind it.
fn find_end(window: &[u8], places: usize) -> bool {
    let mut ends = window[..places].iter().enumerate();
    ends.any(|(at, tag)| {
        *tag == END
            && window[at + 9..at + 13] == *MAGIC
            && window
                .get(at + 13)
                .is_none_or(|next| matches!(*next, 0 | START))
    })
}
