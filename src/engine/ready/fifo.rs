//! The tasks of one line that differ in nothing but their age: their revisions, oldest first, eight
//! bytes each.
//!
//! Nearly always the first leaves and a new last one comes. One that leaves from the middle (it was
//! cancelled) is marked, not taken out; when half are marked the rest moves together. So every
//! change costs a search at most, over the life of a task.

use std::collections::VecDeque;

use crate::domain::Revision;

/// Set on a revision that left from the middle. Revisions stay below it.
const GONE: u64 = 1 << 63;
/// Fewer marks than this are not worth moving the rest.
const MIN_GONE: usize = 32;
/// How many are counted one by one.
const MOST_COUNTED: usize = 1_024;
/// A smaller buffer is not worth giving back.
const MIN_CAPACITY: usize = 64;

/// See the module. Its first element is never marked.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    revisions: VecDeque<u64>,
    gone: usize,
}

impl Fifo {
    /// The oldest.
    pub(super) fn front(&self) -> Option<Revision> {
        self.revisions.front().map(|first| Revision(*first))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Puts one in its place; false: it is there already.
    pub(super) fn insert(&mut self, revision: Revision) -> bool {
        let new = revision.0;
        if self.revisions.back().is_none_or(|last| last & !GONE < new) {
            self.revisions.push_back(new);
            return true;
        }
        match self.find(revision) {
            Ok(place) => {
                let back = self.revisions[place] & GONE != 0;
                if back {
                    self.revisions[place] = new;
                    self.gone -= 1;
                }
                back
            }
            // Only what was given back comes out of order, and it was in front not long ago.
            Err(place) => {
                self.revisions.insert(place, new);
                true
            }
        }
    }

    /// Takes one out; false: it is not there.
    pub(super) fn remove(&mut self, revision: Revision) -> bool {
        if self.front() == Some(revision) {
            return self.pop().is_some();
        }
        let Ok(place) = self.find(revision) else {
            return false;
        };
        if self.revisions[place] & GONE != 0 {
            return false;
        }
        if place + 1 == self.revisions.len() {
            self.revisions.pop_back();
            return true;
        }
        self.revisions[place] |= GONE;
        self.gone += 1;
        if self.gone >= MIN_GONE && 2 * self.gone > self.revisions.len() {
            self.revisions.retain(|revision| revision & GONE == 0);
            self.gone = 0;
            self.give_memory_back();
        }
        true
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<Revision> {
        let first = self.revisions.pop_front()?;
        while self.revisions.front().is_some_and(|next| next & GONE != 0) {
            self.revisions.pop_front();
            self.gone -= 1;
        }
        self.give_memory_back();
        Some(Revision(first))
    }

    /// How many are older; roughly, where they are very many and some have left from the middle.
    pub(super) fn before(&self, revision: Revision) -> usize {
        let place = self
            .revisions
            .partition_point(|other| other & !GONE < revision.0);
        if place <= MOST_COUNTED {
            let before = self.revisions.range(..place);
            return before.filter(|other| *other & GONE == 0).count();
        }
        place - place * self.gone / self.revisions.len()
    }

    fn find(&self, revision: Revision) -> Result<usize, usize> {
        self.revisions
            .binary_search_by_key(&revision.0, |other| other & !GONE)
    }

    fn give_memory_back(&mut self) {
        let (used, held) = (self.revisions.len(), self.revisions.capacity());
        if held > MIN_CAPACITY && used < held / 4 {
            self.revisions.shrink_to(held / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds_and_gives_the_oldest_first(
            steps in prop::collection::vec((0_u8..4, 1_u64..200), 1..600),
        ) {
            let (mut fifo, mut set) = (Fifo::default(), BTreeSet::new());
            for (what, number) in steps {
                let revision = Revision(number);
                match what {
                    0 | 1 => prop_assert_eq!(fifo.insert(revision), set.insert(revision)),
                    2 => prop_assert_eq!(fifo.remove(revision), set.remove(&revision)),
                    _ => prop_assert_eq!(fifo.pop(), set.pop_first()),
                }
                prop_assert_eq!(fifo.front(), set.first().copied());
                prop_assert_eq!(fifo.is_empty(), set.is_empty());
                prop_assert_eq!(fifo.before(revision), set.range(..revision).count());
            }
        }
    }

    #[test]
    fn memory_follows_what_waits() {
        let mut fifo = Fifo::default();
        for number in 1..=100_000 {
            fifo.insert(Revision(number));
        }
        // From the middle, every one but each hundredth.
        for number in 2..100_000 {
            if number % 100 != 0 {
                assert!(fifo.remove(Revision(number)));
            }
        }
        assert!(fifo.revisions.len() < 3_000, "{}", fifo.revisions.len());
        assert!(fifo.revisions.capacity() < 70_000);
        let place = fifo.before(Revision(50_000));
        assert!((400..600).contains(&place), "{place}");
        while fifo.pop().is_some() {}
        assert!(fifo.revisions.capacity() <= 2 * MIN_CAPACITY);
    }
}
