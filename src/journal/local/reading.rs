//! One namespace: reading its records back, all of them or those asked for.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use fjall::{Readable, Snapshot, UserValue};

use super::{
    block::Stored,
    blocks::{Place, is_marked},
    namespace::{Known, Namespace, Tail},
};
use crate::{
    domain::{Entry, Revision},
    journal::{Committed, OpenError},
};

/// Where an entry was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The record that holds it: its own revision, or its block's.
    pub(super) record: Revision,
    /// How many bytes of entries are before it in the record.
    pub(super) offset: usize,
}

impl Namespace {
    /// Reads everything, in order, in this thread, until the sink breaks: then there is no head.
    pub(super) fn replay(
        &self,
        sink: &mut dyn FnMut(Committed) -> ControlFlow<()>,
    ) -> Result<Option<Revision>, OpenError> {
        let mut flow = ControlFlow::Continue(());
        let known = self.scan_while(&mut |committed, _| {
            flow = sink(committed);
            flow
        })?;
        if flow.is_break() {
            return Ok(None);
        }
        let head = known.index.head();
        let space = known.blocks.space();
        tracing::debug!(
            namespace = %self.id, revision = head.0,
            blocks = space.blocks, blocks.bytes = space.stored, blocks.alive_bytes = space.alive,
            "read the journal"
        );
        // Where something is known it is newer: it has taken in what was appended meanwhile. Where
        // nothing is, nothing was appended.
        self.tail.lock().known.get_or_insert(known);
        Ok(Some(head))
    }

    /// What is known; read now where nothing is.
    pub(super) fn known<'a>(&self, tail: &'a mut Tail) -> Result<&'a mut Known, OpenError> {
        match &mut tail.known {
            Some(known) => Ok(known),
            empty => Ok(empty.insert(self.scan(&mut |_, _| {})?)),
        }
    }

    /// Reads everything with its positions, in order; returns what there is to know of it. All that
    /// can be wrong with a record is found.
    pub(super) fn scan(
        &self,
        sink: &mut dyn FnMut(Committed, Position),
    ) -> Result<Known, OpenError> {
        self.scan_while(&mut |committed, position| {
            sink(committed, position);
            ControlFlow::Continue(())
        })
    }

    /// The same; where the sink breaks, what is known ends there and is of no use.
    fn scan_while(
        &self,
        sink: &mut dyn FnMut(Committed, Position) -> ControlFlow<()>,
    ) -> Result<Known, OpenError> {
        // One snapshot, so that entries, marks and head belong together.
        let snapshot = self.database.snapshot();
        let mut marks = self.all_marks(&snapshot)?;
        let mut known = Known::default();
        // The first revision that can come.
        let mut next = Revision::ZERO.next();
        for guard in snapshot.iter(&self.spaces.entries) {
            let (key, value) = guard
                .into_inner()
                .map_err(|error| self.damaged(next, &error))?;
            let key = self.revision(&key, next)?;
            if key < next {
                return Err(self.damaged(key, &"it is in the block before it too"));
            }
            let stored = Stored::read(&value).map_err(|problem| self.damaged(key, &problem))?;
            let mark = marks.remove(&key);
            let is_marked = |place| mark.as_ref().is_some_and(|mark| is_marked(mark, place));
            let mut offset = 0;
            for (place, entry) in stored.entries().enumerate() {
                let revision = Revision(key.0.saturating_add(place as u64));
                next = Revision(revision.0.saturating_add(1));
                let Some(entry) = entry else {
                    continue;
                };
                let position = Position {
                    record: key,
                    offset,
                };
                offset += entry.len();
                if !is_marked(place) {
                    let committed = self.committed(revision, entry)?;
                    let entity = self.keys.of(&committed.entry);
                    known.index.learn(entity, &committed.entry, revision);
                    if sink(committed, position).is_break() {
                        return Ok(known);
                    }
                }
            }
            if matches!(stored, Stored::Block { .. }) {
                let lengths = stored.lengths().enumerate();
                let lengths = lengths.map(|(place, length)| match is_marked(place) {
                    true => 0,
                    false => length,
                });
                let bytes = u32::try_from(offset).unwrap_or(u32::MAX);
                let blocks = &mut known.blocks;
                blocks.insert(key.0, lengths.collect(), bytes, mark.is_some());
            }
        }
        if let Some((&key, _)) = marks.first_key_value() {
            return Err(self.damaged(key, &"it is marked, but the block that had it is missing"));
        }
        let head = snapshot.get(&self.spaces.heads, self.id.as_str());
        if let Some(head) = head.map_err(|error| self.damaged(next, &error))? {
            known.index.learn_head(self.revision(&head, next)?);
        }
        Ok(known)
    }

    fn all_marks(&self, snapshot: &Snapshot) -> Result<BTreeMap<Revision, UserValue>, OpenError> {
        let prefix = self.marks();
        let marks = snapshot.prefix(&self.spaces.marks, &prefix);
        let first = Revision::ZERO.next();
        let marks = marks.map(|guard| {
            let (key, bitmap) = guard
                .into_inner()
                .map_err(|error| self.damaged(first, &error))?;
            Ok((self.revision(&key[prefix.len()..], first)?, bitmap))
        });
        marks.collect()
    }

    /// Reads entries, in this thread: each in its place of the answer, each record once.
    pub(super) fn read(&self, revisions: &[Revision]) -> Result<Vec<Option<Committed>>, OpenError> {
        let (mut places, snapshot) = {
            let mut tail = self.tail.lock();
            let known = self.known(&mut tail)?;
            let places = revisions.iter().enumerate();
            let places =
                places.map(|(number, &revision)| (revision, number, known.blocks.locate(revision)));
            // Taken before the next group: it has what is known, or what was before the last.
            (places.collect::<Vec<_>>(), self.database.snapshot())
        };
        places.sort_unstable_by_key(|&(revision, number, _)| (revision, number));
        let mut records = Records {
            namespace: self,
            snapshot,
            last: None,
        };
        let mut found = vec![None; revisions.len()];
        for (revision, number, place) in places {
            found[number] = match place {
                Place::Gone => None,
                Place::Alone => records.entry(revision, revision.0)?,
                Place::In(block) => records.entry(revision, block)?,
                Place::Moving(block) => match records.entry(revision, revision.0)? {
                    None => records.entry(revision, block)?,
                    alone => alone,
                },
            };
        }
        Ok(found)
    }

    /// Copied, so that what is kept of an entry does not keep its block of the table.
    fn committed(&self, revision: Revision, entry: &[u8]) -> Result<Committed, OpenError> {
        let bytes = entry.len();
        let entry = Entry::decode(Bytes::copy_from_slice(entry))
            .map_err(|error| self.damaged(revision, &error))?;
        Ok(Committed {
            revision,
            entry,
            bytes,
        })
    }

    fn revision(&self, bytes: &[u8], next: Revision) -> Result<Revision, OpenError> {
        let bytes = bytes.try_into().map_err(|_| {
            self.damaged(
                next,
                &format_args!("a revision has 8 bytes, found {}", bytes.len()),
            )
        })?;
        Ok(Revision(u64::from_be_bytes(bytes)))
    }

    /// What the system refuses at the moment is no damage.
    fn unread(&self, revision: Revision, error: &fjall::Error) -> OpenError {
        match refused_by_system(error) {
            Some(system) => OpenError::Io {
                path: String::new(),
                problem: format!(
                    "entry {revision} of namespace {} cannot be read now: {system}",
                    self.id
                ),
            },
            None => self.damaged(revision, error),
        }
    }

    pub(super) fn damaged(&self, revision: Revision, problem: &dyn std::fmt::Display) -> OpenError {
        OpenError::Damaged {
            namespace: self.id.to_string(),
            revision,
            problem: problem.to_string(),
        }
    }
}

/// Records of one snapshot; the last one is at hand.
struct Records<'a> {
    namespace: &'a Namespace,
    snapshot: Snapshot,
    last: Option<(u64, Option<UserValue>)>,
}

impl Records<'_> {
    /// The entry, where it is in the record under `key`.
    fn entry(&mut self, revision: Revision, key: u64) -> Result<Option<Committed>, OpenError> {
        let value = match &mut self.last {
            Some((last, value)) if *last == key => value,
            last => {
                let entries = &self.namespace.spaces.entries;
                let value = self.snapshot.get(entries, key.to_be_bytes());
                let value = value.map_err(|error| self.namespace.unread(revision, &error))?;
                &mut last.insert((key, value)).1
            }
        };
        let Some(value) = value else {
            return Ok(None);
        };
        let stored = Stored::read(value);
        let stored = stored.map_err(|problem| self.namespace.damaged(revision, &problem))?;
        let place = usize::try_from(revision.0 - key).unwrap_or(usize::MAX);
        let entry = stored.entries().nth(place).flatten();
        let read = entry.map(|entry| self.namespace.committed(revision, entry));
        read.transpose()
    }
}

/// The system's own error, where one is at the bottom of it.
fn refused_by_system(error: &fjall::Error) -> Option<&std::io::Error> {
    let mut error: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let system = error.downcast_ref::<std::io::Error>()?;
    system.raw_os_error().map(|_| system)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn what_the_system_refuses_is_told_from_damage() {
        let too_many_files = fjall::Error::from(Error::from_raw_os_error(24));
        assert!(refused_by_system(&too_many_files).is_some());
        let cut = fjall::Error::from(Error::from(ErrorKind::UnexpectedEof));
        assert!(refused_by_system(&cut).is_none());
        assert!(refused_by_system(&fjall::Error::Poisoned).is_none());
    }
}
