//! Slots in chunks: what grows to a million rows is never copied, and never twice in memory.

/// Slots of one chunk.
const CHUNK: usize = 4_096;

/// A vector of slots that only grows.
#[derive(Clone, Debug)]
pub(super) struct Slots<R> {
    chunks: Vec<Vec<Option<R>>>,
}

impl<R> Default for Slots<R> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<R> Slots<R> {
    /// What stands in a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&R> {
        let (chunk, place) = split(slot);
        self.chunks.get(chunk)?.get(place)?.as_ref()
    }

    /// The slot itself; none where it was never given out.
    pub(super) fn slot(&mut self, slot: u32) -> Option<&mut Option<R>> {
        let (chunk, place) = split(slot);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// A slot behind all others.
    pub(super) fn push(&mut self, row: R) -> u32 {
        let full = self.chunks.last().is_none_or(|last| last.len() == CHUNK);
        if full {
            // The first grows as it needs to: most tables are small.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("one was just put there");
        last.push(Some(row));
        u32::try_from(before + last.len() - 1)
            .expect("4 billion rows do not fit the memory of any machine")
    }

    /// What stands in any slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = &R> {
        self.chunks.iter().flatten().flatten()
    }
}

fn split(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK, slot % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_numbers_over_chunks() {
        let mut slots = Slots::default();
        let count = u32::try_from(2 * CHUNK + 10).unwrap();
        for number in 0..count {
            assert_eq!(slots.push(number), number);
        }
        *slots.slot(5_000).unwrap() = None;
        assert_eq!(
            (slots.get(4_095), slots.get(4_096)),
            (Some(&4_095), Some(&4_096))
        );
        assert_eq!((slots.get(5_000), slots.get(count)), (None, None));
        assert!(slots.slot(count).is_none());
        assert_eq!(slots.iter().count(), count as usize - 1);
    }
}
