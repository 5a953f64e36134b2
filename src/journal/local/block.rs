//! How entries lie in fjall's records, and how a group becomes records.
//!
//! Small neighbours share a *block*, since each record costs fjall more than a small entry costs us.
//!
//! | record | key | value |
//! |---|---|---|
//! | an entry alone | its revision | the entry, `0` |
//! | a block | revision of its first place | the entries, their lengths (16 bits each, little endian), the number of places (16 bits), `1` |
//!
//! The places of a block are consecutive revisions. A place of length 0 holds nothing: its entry was
//! superseded before the block was written. Nothing else lies between the first and the last.
//!
//! There is no checksum of ours: fjall has one over every batch in its journal and every block of
//! its tables (xxh3) and checks it at each reading. What a block says of itself must still add up.

use fjall::UserValue;

/// Of a block, at most. With fjall's header it stays below a page of 4 KiB, so that a page which a
/// power failure kept from the disk held the start of a record: fjall then sees that the batch is
/// not whole and drops it. A hole within one record it takes for damage, and refuses to open.
const MAX_BLOCK: usize = 4_000;
/// Of an entry in a block; longer ones stand alone.
const MAX_PACKED: usize = MAX_BLOCK / 4;
/// Fewer stand alone: then nothing has to be known of them in memory.
const MIN_PACKED: usize = 4;
/// A block with fewer entries than one in so many places is not worth its lengths.
const MAX_SPARSE: usize = 8;

const ALONE: u8 = 0;
const PACKED: u8 = 1;

/// One record, without its key.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) value: UserValue,
    /// Of a block.
    pub(super) lengths: Option<Box<[u16]>>,
}

impl Record {
    fn alone(entry: &[u8]) -> Self {
        let mut value = Vec::with_capacity(entry.len() + 1);
        value.extend_from_slice(entry);
        value.push(ALONE);
        Self {
            value: UserValue::from(value),
            lengths: None,
        }
    }

    /// How many revisions it is for.
    pub(super) fn places(&self) -> usize {
        self.lengths.as_ref().map_or(1, |lengths| lengths.len())
    }

    /// What is in it, of its making.
    pub(super) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        let end = self.value.len() - 1;
        let alone = self.lengths.is_none().then(|| &self.value[..end]);
        let packed = self.lengths.iter().flat_map(|lengths| lengths.iter());
        let mut start = 0;
        let packed = packed.map(move |&length| {
            let from = start;
            start += usize::from(length);
            &self.value[from..start]
        });
        alone.into_iter().chain(packed)
    }
}

/// Makes records of a group's entries.
#[derive(Debug, Default)]
pub(super) struct Packer {
    records: Vec<Record>,
    buffer: Vec<u8>,
    lengths: Vec<u16>,
}

impl Packer {
    /// Adds what `encode` writes; says how long it is.
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.buffer.len();
        encode(&mut self.buffer);
        let length = self.buffer.len() - start;
        if length > MAX_PACKED {
            self.buffer.push(ALONE);
            let value = UserValue::from(&self.buffer[start..]);
            self.buffer.truncate(start);
            self.flush(start);
            self.records.push(Record {
                value,
                lengths: None,
            });
        } else {
            if packed_size(start + length, self.lengths.len() + 1) > MAX_BLOCK {
                self.flush(start);
            }
            self.lengths.push(narrow(length));
        }
        length
    }

    /// The records, in order.
    pub(super) fn finish(mut self) -> Vec<Record> {
        self.flush(self.buffer.len());
        self.records
    }

    /// Makes a block of what is in the buffer before `end`.
    fn flush(&mut self, end: usize) {
        if self.lengths.len() < MIN_PACKED {
            let mut start = 0;
            for length in self.lengths.drain(..) {
                let from = start;
                start += usize::from(length);
                let entry = &self.buffer[from..start];
                self.records.push(Record::alone(entry));
            }
        } else {
            self.records
                .push(packed(&self.buffer[..end], &self.lengths));
            self.lengths.clear();
        }
        self.buffer.drain(..end);
    }
}

/// Records of what is left of a block whose first place is `first`, with their keys. `None` is a
/// place that holds nothing any more.
pub(super) fn repack(first: u64, entries: &[Option<&[u8]>]) -> Vec<(u64, Record)> {
    let live = entries.iter().flatten().count();
    let places = entries.iter().rposition(Option::is_some);
    let places = places.map_or(0, |last| last + 1);
    if live < MIN_PACKED || live * MAX_SPARSE < places {
        let alone = (first..).zip(entries);
        let alone = alone.filter_map(|(key, entry)| Some((key, Record::alone((*entry)?))));
        return alone.collect();
    }
    let entries = &entries[..places];
    let lengths: Vec<u16> = entries
        .iter()
        .map(|entry| narrow(entry.map_or(0, <[u8]>::len)))
        .collect();
    let payload: Vec<u8> = entries
        .iter()
        .flatten()
        .copied()
        .flatten()
        .copied()
        .collect();
    vec![(first, packed(&payload, &lengths))]
}

fn packed(payload: &[u8], lengths: &[u16]) -> Record {
    let mut value = Vec::with_capacity(packed_size(payload.len(), lengths.len()));
    value.extend_from_slice(payload);
    for length in lengths {
        value.extend_from_slice(&length.to_le_bytes());
    }
    value.extend_from_slice(&narrow(lengths.len()).to_le_bytes());
    value.push(PACKED);
    Record {
        value: UserValue::from(value),
        lengths: Some(lengths.into()),
    }
}

fn packed_size(payload: usize, places: usize) -> usize {
    payload + places * 2 + 3
}

fn narrow(length: usize) -> u16 {
    u16::try_from(length).expect("a block is shorter than 64 KiB")
}

/// A record as it was read.
#[derive(Debug)]
pub(super) enum Stored<'a> {
    Alone(&'a [u8]),
    Block { payload: &'a [u8], table: &'a [u8] },
}

impl<'a> Stored<'a> {
    /// What the value says, or what is wrong with it.
    pub(super) fn read(value: &'a [u8]) -> Result<Self, &'static str> {
        let (&kind, rest) = value.split_last().ok_or("the record is empty")?;
        match kind {
            ALONE => Ok(Self::Alone(rest)),
            PACKED => {
                let (rest, places) = rest.split_last_chunk().ok_or("the block has no end")?;
                let table = usize::from(u16::from_le_bytes(*places)) * 2;
                let payload = rest.len().checked_sub(table).filter(|_| table > 0);
                let (payload, table) = rest.split_at(payload.ok_or("the block has no lengths")?);
                let stored = Self::Block { payload, table };
                if stored.lengths().map(usize::from).sum::<usize>() == payload.len() {
                    Ok(stored)
                } else {
                    Err("the block's lengths do not add up")
                }
            }
            _ => Err("the record is of no known kind"),
        }
    }

    /// The length of each place; 0 where nothing is. Of an entry alone none.
    pub(super) fn lengths(&self) -> impl Iterator<Item = u16> + use<'a> {
        let table = match self {
            Self::Alone(_) => &[],
            Self::Block { table, .. } => *table,
        };
        let (lengths, _) = table.as_chunks();
        lengths.iter().map(|&length| u16::from_le_bytes(length))
    }

    /// Each place with its entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let (alone, payload) = match self {
            Self::Alone(entry) => (Some(Some(*entry)), &[][..]),
            Self::Block { payload, .. } => (None, *payload),
        };
        let mut start = 0;
        let packed = self.lengths().map(move |length| {
            let from = start;
            start += usize::from(length);
            (length > 0).then(|| &payload[from..start])
        });
        alone.into_iter().chain(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(entries: &[Vec<u8>]) -> Vec<Record> {
        let mut packer = Packer::default();
        for entry in entries {
            let length = packer.push(|buffer| buffer.extend_from_slice(entry));
            assert_eq!(length, entry.len());
        }
        packer.finish()
    }

    fn read(records: &[Record]) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for record in records {
            let stored = Stored::read(&record.value).unwrap();
            let read: Vec<_> = stored.entries().map(|entry| entry.unwrap()).collect();
            assert!(record.entries().eq(read.iter().copied()));
            assert_eq!(record.places(), read.len());
            entries.extend(read.into_iter().map(<[u8]>::to_vec));
        }
        entries
    }

    #[test]
    fn entries_come_back_in_order_and_blocks_stay_small() {
        let sizes = [1, 2_000, 3, 999, 1_000, 1_001, 40, 40, 40, 40, 9_000];
        let entries: Vec<Vec<u8>> = (0u8..=255)
            .zip(sizes.iter().cycle())
            .map(|(byte, &size)| vec![byte; size])
            .collect();
        let records = packed(&entries);
        assert_eq!(read(&records), entries);
        assert!(records.len() < entries.len());
        for record in &records {
            if record.lengths.is_some() {
                assert!(record.value.len() <= MAX_BLOCK, "{}", record.value.len());
                assert!(record.places() >= MIN_PACKED);
            }
        }
    }

    #[test]
    fn a_full_block_is_nearly_full() {
        let records = packed(&vec![vec![7; 100]; 1_000]);
        assert_eq!(records.len(), 1_000_usize.div_ceil(39));
    }

    #[test]
    fn what_is_left_of_a_block_is_a_block_or_stands_alone() {
        let (a, b) = ([1u8; 50], [2u8; 60]);
        let some = [None, Some(&a[..]), Some(&b), None, Some(&a), Some(&b), None];
        let records = repack(10, &some);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].0, 10);
        let stored = Stored::read(&records[0].1.value).unwrap();
        assert!(stored.entries().eq(some[..6].iter().copied()));

        let few = [None, Some(&a[..]), None, Some(&b)];
        let keys: Vec<u64> = repack(10, &few).iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [11, 13]);
        let mut sparse = vec![None; 41];
        for place in [0, 10, 20, 30, 40] {
            sparse[place] = Some(&a[..]);
        }
        assert_eq!(repack(10, &sparse).len(), 5);
        assert!(repack(10, &[None, None]).is_empty());
    }

    #[test]
    fn what_does_not_add_up_is_no_record() {
        let whole = packed(&vec![vec![7; 100]; 5]).remove(0).value.to_vec();
        assert!(Stored::read(&whole).is_ok());
        for end in 0..whole.len() {
            // All but an entry alone: what is before the kind is the entry's own matter.
            if end == 0 || whole[end - 1] != ALONE {
                assert!(Stored::read(&whole[..end]).is_err(), "{end}");
            }
        }
        for place in 500..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            assert!(Stored::read(&damaged).is_err(), "{place}");
        }
    }
}
