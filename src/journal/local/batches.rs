//! Reads the batches of a fjall journal file, each as a whole with its checksum.
//!
//! The format is fjall 3's: batches of a start (tag 1, the number of items, a sequence number),
//! items (tag 2; 4 clears a keyspace), and an end (tag 3, the xxh3 of the items, a magic text);
//! behind the last batch zeros or nothing.

use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3;

use crate::domain::{NamespaceId, Revision};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8; 4] = b"FJL\x03";
/// Tag, number of items, sequence number.
const START_BYTES: usize = 1 + 4 + 8;
/// Tag, checksum, magic.
const END_BYTES: usize = 1 + 8 + 4;

/// What was read last in one piece: a namespace and its head.
pub(super) type LastHead = Option<(String, Revision)>;

pub(super) enum Batch {
    Whole(LastHead),
    /// It was read, and is not what was written.
    Mismatch,
    /// It cannot be read, or there is none.
    Broken,
}

pub(super) struct Batches<R> {
    from: R,
    /// How much was read.
    pub(super) at: u64,
    /// Of the last whole batch.
    pub(super) sequence: u64,
    sum: Xxh3,
    value: Vec<u8>,
}

impl<R: Read> Batches<R> {
    pub(super) fn new(from: R, sequence: u64) -> Self {
        Self {
            from,
            at: 0,
            sequence,
            sum: Xxh3::new(),
            value: Vec::new(),
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// The next one. After one that is not whole nothing more can be read.
    pub(super) fn batch(&mut self) -> io::Result<Batch> {
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
        let rises = sequence >= self.sequence;
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
        if !rises || self.sum.digest() != expected {
            return Ok(Some(Batch::Mismatch));
        }
        self.sequence = sequence;
        Ok(Some(Batch::Whole(head)))
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
        self.from.read_exact(&mut bytes)?;
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
        let read = (&mut self.from).take(length).read_to_end(&mut self.value)? as u64;
        self.at += read;
        self.sum.update(&self.value);
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Whether a whole batch is anywhere in it, with nothing or a batch behind it, and a sequence number
/// above `last`. What looks like one inside a value, as in a copy of a journal file, has a lower
/// number or none.
pub(super) fn has_whole(bytes: &[u8], last: u64) -> bool {
    let starts = bytes.windows(START_BYTES + 1).enumerate();
    let starts = starts.filter(|(_, start)| {
        start[0] == START && start[1..5] != [0; 4] && matches!(start[START_BYTES], ITEM | CLEAR)
    });
    starts.into_iter().any(|(at, _)| {
        let mut rest = &bytes[at..];
        let mut batches = Batches::new(&mut rest, last.saturating_add(1));
        matches!(batches.batch(), Ok(Batch::Whole(_)))
            && rest.first().is_none_or(|next| matches!(*next, 0 | START))
    })
}

/// Whether it ends as a batch ends.
pub(super) fn ends(bytes: &[u8]) -> bool {
    let end = bytes.len().checked_sub(END_BYTES);
    end.is_some_and(|end| bytes[end] == END && bytes.ends_with(MAGIC))
}
