//! Where each block of a namespace is and which of its entries are superseded.
//!
//! An entry that stands alone is not known here: its revision is its key. Of a block there are two
//! bytes for each place, so a million entries cost a few megabytes.
//!
//! A superseded entry stays in its block's record, and a *mark* beside it, a bitmap in a keyspace
//! of its own, says so: written once per block and group, in the batch of the group that
//! superseded. A replay takes the marks first, so what was superseded stays so whatever becomes
//! of the entry that did it. Once all of a block is superseded block and mark go. One that is
//! mostly dead is written anew with what lives in it, oldest first, when the namespace as a whole
//! holds more dead bytes than live ones: most blocks die whole soon after, and then it was for
//! nothing. So dead bytes stay below three times the live ones and a few megabytes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::domain::Revision;

/// Dead bytes that a namespace may hold whatever lives.
#[cfg(not(test))]
const SLACK: u64 = 4 << 20;
#[cfg(test)]
pub(super) const SLACK: u64 = 2 << 10;
/// A block is mostly dead where less than one byte in so many lives.
const WASTEFUL: u32 = 4;

/// The blocks of one namespace.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// By the revision of the first place.
    by_key: BTreeMap<u64, Block>,
    space: Space,
    /// Blocks in which something was superseded since [`Blocks::settle`].
    touched: Vec<u64>,
    /// Blocks that are mostly dead, in the order in which they became so.
    wasteful: VecDeque<u64>,
    /// Entries of blocks that the last group took apart, with the key of their block: until its
    /// batch is written they are still there.
    moved: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Block {
    /// Of each place; 0 where nothing is or lives.
    lengths: Box<[u16]>,
    /// Bytes of entries in the record.
    stored: u32,
    /// Bytes of those that live.
    alive: u32,
    /// Whether it has a mark on the disk.
    marked: bool,
    touched: bool,
    wasteful: bool,
}

/// What the blocks of a namespace hold. Entries that stand alone are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// How many there are.
    pub(super) blocks: u64,
    /// Bytes of entries in them.
    pub(super) stored: u64,
    /// Bytes of those that are not superseded.
    pub(super) alive: u64,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it was superseded.
    Gone,
    /// Under its own revision, where it is.
    Alone,
    /// In a block.
    In(u64),
    /// Alone or still in a block.
    Moving(u64),
}

/// What to write for a block in which something was superseded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing lives in it: remove it, and its mark where it has one.
    Remove { key: u64, marked: bool },
    /// Write its mark.
    Mark { key: u64, bitmap: Vec<u8> },
}

impl Blocks {
    /// Takes in a block that is written with this group, or was read with its mark.
    pub(super) fn insert(&mut self, key: u64, lengths: Box<[u16]>, stored: u32, marked: bool) {
        let alive = lengths.iter().map(|&length| u32::from(length)).sum();
        let mut block = Block {
            lengths,
            stored,
            alive,
            marked,
            touched: false,
            wasteful: false,
        };
        block.queue(key, &mut self.wasteful);
        self.space.blocks += 1;
        self.space.stored += u64::from(stored);
        self.space.alive += u64::from(alive);
        self.by_key.insert(key, block);
    }

    fn forget(&mut self, key: u64) -> Option<Block> {
        let block = self.by_key.remove(&key)?;
        self.space.blocks -= 1;
        self.space.stored -= u64::from(block.stored);
        self.space.alive -= u64::from(block.alive);
        Some(block)
    }

    pub(super) fn space(&self) -> Space {
        self.space
    }

    /// Notes what is superseded. `remove` is called with each that is no block's matter: its own
    /// record is to be removed.
    pub(super) fn supersede(&mut self, mut old: Vec<Revision>, mut remove: impl FnMut(Revision)) {
        old.sort_unstable();
        old.dedup();
        // Neighbours are mostly of one block, which is then looked up once.
        let mut rest = &old[..];
        while let Some(&first) = rest.first() {
            let found = self.by_key.range_mut(..=first.0).next_back();
            let found = found.filter(|(key, block)| first.0 - **key < block.lengths.len() as u64);
            let Some((&key, block)) = found else {
                remove(first);
                rest = &rest[1..];
                continue;
            };
            let mut dead = 0;
            let mut seen = 0;
            for old in rest {
                let place = usize::try_from(old.0 - key).ok();
                let Some(length) = place.and_then(|place| block.lengths.get_mut(place)) else {
                    break;
                };
                dead += u32::from(std::mem::take(length));
                seen += 1;
            }
            rest = &rest[seen..];
            block.alive -= dead;
            self.space.alive -= u64::from(dead);
            if dead > 0 && !std::mem::replace(&mut block.touched, true) {
                self.touched.push(key);
            }
        }
    }

    /// Where to look for an entry.
    pub(super) fn locate(&self, revision: Revision) -> Place {
        if let Some(&key) = self.moved.get(&revision.0) {
            return Place::Moving(key);
        }
        let block = self.by_key.range(..=revision.0).next_back();
        let length = block.and_then(|(&key, block)| {
            let place = usize::try_from(revision.0 - key).ok()?;
            Some((key, block.lengths.get(place)?))
        });
        match length {
            None => Place::Alone,
            Some((_, 0)) => Place::Gone,
            Some((key, _)) => Place::In(key),
        }
    }

    /// To be called before a group: the batch of the last one is written.
    pub(super) fn begin(&mut self) {
        self.moved.clear();
    }

    /// The next block to write anew; [`Blocks::rewritten`] or [`Blocks::settle`] follows.
    pub(super) fn next_wasteful(&mut self) -> Option<u64> {
        while self.space.stored - self.space.alive > self.space.alive + SLACK {
            let key = self.wasteful.pop_front()?;
            match self.by_key.get_mut(&key) {
                Some(block) if block.alive > 0 => return Some(key),
                _ => {}
            }
        }
        None
    }

    /// How long what lives in each place of a block is; 0 where nothing does.
    pub(super) fn lengths(&self, key: u64) -> &[u16] {
        self.by_key.get(&key).map_or(&[], |block| &block.lengths)
    }

    /// Takes in that a block is written anew: as what, under its key, or where it is `None` as
    /// entries that stand alone. Says whether it had a mark, which is then to be removed.
    pub(super) fn rewritten(&mut self, key: u64, lengths: Option<Box<[u16]>>) -> bool {
        let Some(block) = self.forget(key) else {
            return false;
        };
        if let Some(lengths) = lengths {
            self.insert(key, lengths, block.alive, false);
        } else {
            let lives = (key..).zip(&block.lengths);
            let lives = lives.filter(|(_, length)| **length > 0);
            self.moved.extend(lives.map(|(place, _)| (place, key)));
        }
        block.marked
    }

    /// What is to be written for the blocks in which something was superseded. Those that were
    /// rewritten since need nothing.
    pub(super) fn settle(&mut self, mut write: impl FnMut(Change)) {
        for key in std::mem::take(&mut self.touched) {
            let Some(block) = self.by_key.get_mut(&key) else {
                continue;
            };
            if block.alive == 0 {
                let marked = block.marked;
                self.forget(key);
                write(Change::Remove { key, marked });
            } else if std::mem::take(&mut block.touched) {
                block.marked = true;
                let bitmap = block.bitmap();
                block.queue(key, &mut self.wasteful);
                write(Change::Mark { key, bitmap });
            }
        }
        // Most went before their turn came.
        if self.wasteful.len() > 2 * self.by_key.len() + 64 {
            self.wasteful.retain(|key| self.by_key.contains_key(key));
        }
    }
}

impl Block {
    fn queue(&mut self, key: u64, wasteful: &mut VecDeque<u64>) {
        if !self.wasteful && self.alive * WASTEFUL < self.stored {
            self.wasteful = true;
            wasteful.push_back(key);
        }
    }

    /// A bit for each place, the lowest first; set where nothing lives.
    fn bitmap(&self) -> Vec<u8> {
        let mut bitmap = vec![0u8; self.lengths.len().div_ceil(8)];
        for (place, &length) in self.lengths.iter().enumerate() {
            if length == 0 {
                bitmap[place / 8] |= 1 << (place % 8);
            }
        }
        bitmap
    }
}

/// Whether a bitmap says that nothing lives in a place. Beyond its end all lives.
pub(super) fn is_marked(bitmap: &[u8], place: usize) -> bool {
    let byte = bitmap.get(place / 8);
    byte.is_some_and(|byte| byte & (1 << (place % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(blocks: &mut Blocks) -> Vec<Change> {
        let mut changes = Vec::new();
        blocks.settle(|change| changes.push(change));
        changes
    }

    /// What is to be removed by itself.
    fn supersede(blocks: &mut Blocks, old: &[u64]) -> Vec<u64> {
        let mut alone = Vec::new();
        let old = old.iter().copied().map(Revision).collect();
        blocks.supersede(old, |old| alone.push(old.0));
        alone
    }

    fn blocks(count: u64) -> Blocks {
        let mut blocks = Blocks::default();
        for block in 0..count {
            blocks.insert(1 + 20 * block, vec![100; 10].into(), 1_000, false);
        }
        blocks
    }

    #[test]
    fn a_superseded_entry_is_marked_and_the_last_one_removes_its_block() {
        let mut blocks = blocks(2);
        assert_eq!(
            supersede(&mut blocks, &[11, 0, 31, 20, 11]),
            [0, 11, 20, 31]
        );
        assert_eq!(blocks.locate(Revision(11)), Place::Alone);
        assert!(settled(&mut blocks).is_empty());
        assert!(supersede(&mut blocks, &[2, 10, 2]).is_empty());
        assert_eq!(blocks.locate(Revision(2)), Place::Gone);
        assert_eq!(blocks.locate(Revision(3)), Place::In(1));
        let bitmap = vec![0b10, 0b10];
        assert!(is_marked(&bitmap, 9) && !is_marked(&bitmap, 8) && !is_marked(&bitmap, 99));
        let change = Change::Mark { key: 1, bitmap };
        assert_eq!(settled(&mut blocks), [change]);
        assert_eq!(
            supersede(&mut blocks, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
            [11]
        );
        let change = Change::Remove {
            key: 1,
            marked: true,
        };
        assert_eq!(settled(&mut blocks), [change]);
        assert_eq!(blocks.locate(Revision(2)), Place::Alone);
        let space = Space {
            blocks: 1,
            stored: 1_000,
            alive: 1_000,
        };
        assert_eq!(blocks.space(), space);
    }

    #[test]
    fn what_is_mostly_dead_is_rewritten_once_there_is_much_of_it() {
        let mut blocks = blocks(20);
        let mut offered = Vec::new();
        for block in 0..20 {
            let old: Vec<u64> = (1 + 20 * block..9 + 20 * block).collect();
            supersede(&mut blocks, &old);
            settled(&mut blocks);
            blocks.begin();
            while let Some(key) = blocks.next_wasteful() {
                offered.push(key);
                assert_eq!(blocks.lengths(key), [0, 0, 0, 0, 0, 0, 0, 0, 100, 100]);
                assert!(blocks.rewritten(key, None));
                assert_eq!(blocks.locate(Revision(key + 8)), Place::Moving(key));
                assert_eq!(blocks.locate(Revision(key + 7)), Place::Alone);
            }
            let space = blocks.space();
            assert!(space.stored - space.alive <= space.alive + SLACK);
        }
        assert!(!offered.is_empty() && offered.len() < 20);
        assert!(offered.is_sorted());
    }
}
