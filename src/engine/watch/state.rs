//! Watching states.

use bytes::Bytes;

use super::{
    super::{Namespace, mirror::Mirror, token::digest, wakers::Topic},
    AudienceKey, Source, Watch, WatchOptions,
    walk::walk,
};
use crate::{
    domain::{
        Error, Revision, StateId,
        limits::{MAX_INLINE_VALUE_BYTES, MAX_STATES_PER_WATCH, MAX_VALUE_BYTES},
        state::{Key, LargeRef, StateValue, Stored},
        table::{Content, Place},
    },
    telemetry::metrics::WatchKind,
};

/// Which keys are watched; an empty filter matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyFilter {
    /// These keys,
    pub exact: Vec<String>,
    /// and those that begin so.
    pub prefixes: Vec<String>,
}

impl KeyFilter {
    /// Whether a key is meant.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        (self.exact.is_empty() && self.prefixes.is_empty())
            || self.exact.iter().any(|exact| exact == key)
            || self
                .prefixes
                .iter()
                .any(|prefix| key.starts_with(prefix.as_str()))
    }
}

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchStates {
    /// 1 to 64 states.
    pub states: Vec<StateId>,
    /// Which of their keys.
    pub keys: KeyFilter,
    /// How.
    pub options: WatchOptions,
    /// Larger values come as stubs; none: [`MAX_INLINE_VALUE_BYTES`].
    pub inline_limit: Option<usize>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct StateItem {
    /// Index into the watched states.
    pub target: u32,
    /// The key.
    pub key: Key,
    /// Its value; none: deleted.
    pub value: Option<StateValue>,
    /// The value is too large to send along, or was replaced before it could be sent.
    pub stub: bool,
    /// Revision of the change.
    pub revision: Revision,
}

/// A watch of states.
pub type StateWatch = Watch<StateSource>;

/// See [`Source`].
#[derive(Debug)]
pub struct StateSource {
    states: Vec<StateId>,
    keys: KeyFilter,
    inline_limit: usize,
    digest: u64,
    marks: Vec<Place>,
    deleted_after: Revision,
}

impl Namespace {
    /// Watches states. Those that do not stand are empty until they do.
    pub async fn watch_states(&self, request: WatchStates) -> Result<StateWatch, Error> {
        let count = request.states.len();
        if !(1..=MAX_STATES_PER_WATCH).contains(&count) {
            return Err(Error::field(
                "names",
                format!("must name 1 to {MAX_STATES_PER_WATCH} states, got {count}"),
            ));
        }
        self.reach(&request.options.min_position).await?;
        let topics: Vec<_> = request.states.iter().cloned().map(Topic::State).collect();
        let inline_limit = request
            .inline_limit
            .unwrap_or(MAX_INLINE_VALUE_BYTES)
            .min(MAX_VALUE_BYTES);
        let key = AudienceKey {
            states: request.states.clone(),
            keys: request.keys.clone(),
            inline_limit,
        };
        let source = StateSource {
            digest: digest(("states", &request.states, &request.keys, inline_limit)),
            states: request.states,
            keys: request.keys,
            inline_limit,
            marks: Vec::new(),
            deleted_after: Revision::ZERO,
        };
        let audience = self.shared().wakers.audience(Some(key), &topics);
        Watch::open(self.shared().clone(), source, audience, &request.options)
    }
}

impl Source for StateSource {
    const KIND: WatchKind = WatchKind::State;

    type Item = StateItem;

    fn digest(&self) -> u64 {
        self.digest
    }

    fn horizon(&self, mirror: &Mirror) -> Revision {
        let slots = self
            .states
            .iter()
            .filter_map(|state| mirror.states.get(state));
        slots
            .map(|slot| slot.state.horizon())
            .fold(mirror.horizon, Revision::max)
    }

    fn commits(&self, mirror: &Mirror) -> u64 {
        let slots = self
            .states
            .iter()
            .filter_map(|state| mirror.states.get(state));
        slots.map(|slot| slot.commits).sum()
    }

    fn begin(&mut self, from: Revision, deleted_after: Revision) {
        self.marks = vec![Place::after(from); self.states.len()];
        self.deleted_after = deleted_after;
    }

    fn replaced(&mut self) {
        for mark in &mut self.marks {
            *mark = mark.again();
        }
    }

    fn collect(&mut self, mirror: &Mirror, limit: usize, items: &mut Vec<StateItem>) -> bool {
        let mut room = limit;
        let mut met = true;
        for (target, (state, mark)) in self.states.iter().zip(&mut self.marks).enumerate() {
            let Some(slot) = mirror.states.get(state) else {
                continue;
            };
            met &= walk(
                slot.state.table(),
                mark,
                &mut room,
                |revision, key, content| {
                    let value = match content {
                        Content::Live(value) => Some(value.clone()),
                        Content::Dead(()) if revision > self.deleted_after => None,
                        Content::Dead(()) => return 0,
                    };
                    if !self.keys.matches(key) {
                        return 0;
                    }
                    let stub = value
                        .as_ref()
                        .is_some_and(|value| value.value.size() > self.inline_limit);
                    let target = u32::try_from(target).unwrap_or(u32::MAX);
                    items.push(StateItem {
                        target,
                        key: key.clone(),
                        value,
                        stub,
                        revision,
                    });
                    items.last().map_or(0, Self::size)
                },
            );
        }
        met
    }

    fn size(item: &StateItem) -> usize {
        let value = item.value.as_ref().map_or(0, |value| {
            value.source.len() + if item.stub { 128 } else { value.value.size() }
        });
        item.key.len() + value + 32
    }

    fn missing(item: &StateItem) -> Option<Revision> {
        let value = item.value.as_ref().filter(|_| !item.stub)?;
        value.value.large().map(LargeRef::at)
    }

    fn complete(item: &mut StateItem, found: Option<Bytes>) {
        match (&mut item.value, found) {
            (Some(value), Some(found)) => value.value = Stored::Inline(found),
            _ => item.stub = true,
        }
    }

    fn is_finished(&self, _: &Mirror) -> bool {
        false
    }

    fn may_finish(&self) -> bool {
        false
    }
}

impl StateItem {
    /// The encoded value, unless it is deleted, sent as a stub or still to be fetched.
    #[must_use]
    pub fn inline(&self) -> Option<&Bytes> {
        self.value
            .as_ref()
            .filter(|_| !self.stub)
            .and_then(|value| value.value.inline())
    }
}
