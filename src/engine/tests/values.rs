//! Large values: out of line in the journal, whole for whoever asks, gone when nobody refers to
//! them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;

use crate::{
    domain::{
        Entry, NamespaceId, Reason, Revision, StateId,
        limits::{HISTORY_WINDOW, MAX_INLINE_VALUE_BYTES, MAX_VALUE_BYTES},
        state::{KeyOp, Op, Settings, admit},
        task::Contribution,
    },
    engine::{
        command::UpdateRequest,
        intake::PushNews,
        mirror::StateSlot,
        values::{CACHED_BYTES, ValueCache, Values},
        watch::{Frame, StateItem, StateWatch, WatchOptions, WatchStates},
    },
    journal::Store,
    proto::v1,
};

use super::{Sandbox, batch, frame, integer, op, put, succeeded, token};

/// The encoded blob of a picture.
pub(super) fn picture(byte: u8, size: usize) -> Bytes {
    let blob = v1::Blob {
        content_type: "image/png".into(),
        data: vec![byte; size].into(),
        sha256: Bytes::new(),
    };
    let kind = Some(v1::value::Kind::Blob(blob));
    v1::Value { kind }.encode_to_vec().into()
}

/// A put, admitted as where it arrives.
pub(super) fn show(sequence: u64, key: &str, value: Bytes) -> KeyOp {
    let admitted = admit(vec![op(sequence, key, Op::Put(value))]);
    assert_eq!(admitted.rejected, []);
    admitted.ops.into_iter().next().unwrap()
}

/// A batch with a picture and an addition, which the picture refuses, to it and to a number.
pub(super) fn pictured(sequence: u64, byte: u8, size: usize) -> v1::UpdateBatch {
    let one = || Op::Add(integer(1));
    let image = Op::Put(picture(byte, size));
    batch(sequence, vec![("k1", image), ("k1", one()), ("n", one())])
}

impl Sandbox {
    async fn show(&self, key: &str, value: Bytes) -> Revision {
        let updated = self.update("s", vec![show(1, key, value)]).await.unwrap();
        assert_eq!(updated.rejected, []);
        updated.revision
    }

    fn slot<T>(&self, read: impl FnOnce(&StateSlot) -> T) -> T {
        let state = StateId::trusted("s");
        self.namespace.read(|mirror| read(&mirror.states[&state]))
    }

    /// Where a key's large value is.
    fn place(&self, key: &str) -> Revision {
        self.slot(|slot| {
            let held = slot.state.table().get(key).unwrap();
            held.value.large().expect("it is large").at()
        })
    }

    async fn fetch(&self, key: &str) -> Bytes {
        let found = self.namespace.large_value(self.place(key)).await.unwrap();
        found.expect("its entry is there")
    }

    /// What the journal holds now, as (value entries, their bytes, other entries).
    fn stored(&self) -> (usize, usize, usize) {
        let journal = self.store.open(&NamespaceId::trusted("default")).unwrap();
        let (mut values, mut bytes, mut others) = (0, 0, 0);
        let count = &mut |committed: crate::journal::Committed| match committed.entry {
            Entry::StateValue(entry) => {
                values += 1;
                bytes += entry.value.len();
            }
            _ => others += 1,
        };
        journal.replay(count).unwrap();
        (values, bytes, others)
    }

    /// Revisions of the value entries that the journal holds.
    pub(super) fn stored_values(&self) -> Vec<Revision> {
        let journal = self.store.open(&NamespaceId::trusted("default")).unwrap();
        let mut values = Vec::new();
        let note = &mut |committed: crate::journal::Committed| {
            if matches!(committed.entry, Entry::StateValue(_)) {
                values.push(committed.revision);
            }
        };
        journal.replay(note).unwrap();
        values
    }

    async fn watch(&self, inline_limit: Option<usize>) -> StateWatch {
        let request = WatchStates {
            states: vec![StateId::trusted("s")],
            inline_limit,
            ..WatchStates::default()
        };
        self.namespace.watch_states(request).await.unwrap()
    }
}

/// The items of the next frame that has some.
async fn items(watch: &mut StateWatch) -> Vec<StateItem> {
    loop {
        match watch.next().await.unwrap().unwrap() {
            Frame::Snapshot(items) | Frame::Delta { items, .. } => return items,
            Frame::Opened { .. } | Frame::Synced(_) | Frame::Bookmark { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_large_value_is_kept_apart_and_given_back_whole_before_and_after_a_restart() {
    let sandbox = Sandbox::new().await;
    let image = picture(1, 300_000);
    let at = sandbox.show("image", image.clone()).await;
    assert_eq!(sandbox.place("image").next(), at);
    assert_eq!(sandbox.fetch("image").await, image);
    sandbox.slot(|slot| {
        assert!(slot.snapshot_size() < 100, "{slot:?}");
        assert_eq!(slot.state.large_bytes(), image.len());
        assert_eq!(slot.state.revision(), at);
    });
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.fetch("image").await, image);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn values_are_cached_within_a_bound_and_a_restart_loads_none() {
    let sandbox = Sandbox::new().await;
    for number in 0..20 {
        let key = format!("k{}", number % 10);
        sandbox.show(&key, picture(number, 1_000_000)).await;
    }
    let cached = || sandbox.namespace.shared().values.cached_bytes();
    let bytes = 20 * picture(0, 1_000_000).len();
    assert_eq!(cached(), bytes, "what was written of late is at hand");
    sandbox.slot(|slot| assert!(slot.snapshot_size() < 1_000));
    for _ in 0..80 {
        sandbox.show("hot", picture(7, 1_000_000)).await;
    }
    assert!(cached() <= CACHED_BYTES, "{} bytes", cached());
    assert!(cached() > CACHED_BYTES - 2_000_000);

    let sandbox = sandbox.kill_and_restart().await;
    let cached = || sandbox.namespace.shared().values.cached_bytes();
    assert_eq!(cached(), 0);
    sandbox.slot(|slot| {
        assert_eq!(slot.state.large_values().count(), 11);
        assert!(slot.snapshot_size() < 1_000);
    });
    sandbox.fetch("hot").await;
    assert_eq!(cached(), picture(7, 1_000_000).len());
    sandbox.assert_replay_equals_live().await;
}

/// A preview replaced ten times a second must not fill the disk.
#[tokio::test]
async fn replaced_values_leave_the_journal_long_before_the_deltas_would() {
    let sandbox = Sandbox::new().await;
    sandbox.show("still", picture(9, 100_000)).await;
    let mut most = 0;
    for number in 0..100 {
        sandbox.show("image", picture(number, 256 << 10)).await;
        most = most.max(sandbox.stored().1);
    }
    assert!(most < 6 << 20, "{most} bytes");
    let still = sandbox.fetch("still").await;
    assert_eq!(still, picture(9, 100_000));
    assert_eq!(sandbox.fetch("image").await, picture(99, 256 << 10));
    let counted = sandbox.slot(|slot| (slot.values.len(), slot.value_bytes));
    let (values, bytes, _) = sandbox.stored();
    assert_eq!(counted, (values, bytes));
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_deleted_state_takes_its_values_along() {
    let sandbox = Sandbox::new().await;
    sandbox.show("image", picture(1, 100_000)).await;
    sandbox.show("image", picture(2, 100_000)).await;
    let place = sandbox.place("image");
    let state = StateId::trusted("s");
    sandbox.namespace.delete_state(state, None).await.unwrap();
    assert_eq!(sandbox.stored().0, 0);
    sandbox.slot(|slot| assert_eq!((slot.values.len(), slot.value_bytes), (0, 0)));
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.namespace.large_value(place).await.unwrap(), None);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_deleted_for_its_retention_takes_its_values_along_too() {
    let sandbox = Sandbox::new().await;
    sandbox.show("image", picture(1, 100_000)).await;
    sandbox.show("image", picture(2, 100_000)).await;
    let settings = Settings {
        retention_us: 1,
        ..Settings::default()
    };
    let state = StateId::trusted("s");
    sandbox.namespace.set_state(state, settings).await.unwrap();
    let alive = || {
        let mut alive = true;
        sandbox.slot(|slot| alive = slot.state.alive());
        alive
    };
    // Virtual time, which the upkeep goes by; the retention is over in any time.
    for _ in 0..100 {
        if alive() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    assert!(!alive());
    assert_eq!(sandbox.stored().0, 0);
    sandbox.slot(|slot| assert_eq!((slot.values.len(), slot.value_bytes), (0, 0)));
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_value_whose_delta_was_lost_changes_nothing_and_goes_with_the_next_start() {
    let sandbox = Sandbox::new().await;
    let first = sandbox.show("image", picture(1, 100_000)).await;
    // The value is committed, and the process is gone before its delta is.
    sandbox.store.faults().kill_after(1);
    let lost = sandbox
        .update("s", vec![show(1, "image", picture(2, 100_000))])
        .await;
    assert_eq!(lost.unwrap_err().reason, Reason::JournalUnavailable);
    assert_eq!(sandbox.stored().0, 2);
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.fetch("image").await, picture(1, 100_000));
    sandbox.slot(|slot| assert_eq!(slot.state.revision(), first));
    let state = StateId::trusted("s");
    let clean = |mirror: &crate::engine::mirror::Mirror| mirror.states[&state].values.len() == 1;
    sandbox.until(clean).await;
    assert_eq!(sandbox.stored().0, 1);
    // The client sends it again.
    sandbox.show("image", picture(2, 100_000)).await;
    assert_eq!(sandbox.fetch("image").await, picture(2, 100_000));
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_of_a_state_that_never_came_to_be_is_forgotten_by_the_horizon() {
    let sandbox = Sandbox::new().await;
    sandbox.store.faults().kill_after(1);
    let lost = sandbox.update("s", vec![show(1, "image", picture(1, 100_000))]);
    lost.await.unwrap_err();
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.stored().0, 1);
    let state = StateId::trusted("s");
    let missing = sandbox.namespace.read_state(&state, |_, _| ()).unwrap_err();
    assert_eq!(missing.reason, Reason::StateNotFound);
    for _ in 0..3 {
        tokio::time::advance(HISTORY_WINDOW).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    sandbox.until(|mirror| mirror.states.is_empty()).await;
    assert_eq!(sandbox.stored().0, 0);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn compare_and_set_works_with_large_values() {
    let sandbox = Sandbox::new().await;
    let at = sandbox.show("image", picture(1, 100_000)).await;
    let expecting = |expected, byte| UpdateRequest {
        state: StateId::trusted("s"),
        ops: vec![show(1, "image", picture(byte, 100_000))],
        rejected: Vec::new(),
        request_id: None,
        expected: Some(expected),
        lease: None,
        source: "client".into(),
    };
    sandbox.namespace.update(expecting(at, 2)).await.unwrap();
    let late = sandbox.namespace.update(expecting(at, 3)).await;
    assert_eq!(late.unwrap_err().reason, Reason::RevisionMismatch);
    assert_eq!(sandbox.fetch("image").await, picture(2, 100_000));
    // The one that was refused left nothing behind.
    assert_eq!(sandbox.stored().0, 2);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn of_values_pushed_faster_than_they_are_merged_only_the_last_is_stored() {
    let sandbox = Sandbox::new().await;
    let session = sandbox.open("s", 3, None).await.unwrap().claim();
    // In one frame: the monitor has no chance to come between.
    let batches = (1..=10).map(|sequence| {
        let image = Op::Put(picture(sequence as u8, 100_000));
        batch(sequence, vec![("image", image), ("n", Op::Add(integer(1)))])
    });
    sandbox.namespace.push(&session, &frame(batches)).unwrap();
    let news = session.news().await.unwrap();
    assert!(matches!(news, PushNews::Ack { sequence: 10, .. }));
    assert_eq!(sandbox.fetch("image").await, picture(10, 100_000));
    assert_eq!(sandbox.number_beside_large("n"), 10);
    assert_eq!(sandbox.stored().0, 1);
    sandbox.assert_replay_equals_live().await;
}

impl Sandbox {
    fn number_beside_large(&self, key: &str) -> i64 {
        let value = self.slot(|slot| slot.state.table().get(key).unwrap().value.clone());
        match v1::Value::decode(&value.inline().unwrap()[..])
            .unwrap()
            .kind
        {
            Some(v1::value::Kind::Integer(number)) => number,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_finished_task_contributes_a_large_value_once() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    let contribution = Contribution {
        state: "s".into(),
        ops: vec![show(1, "image", picture(4, 200_000))],
    };
    let outcome = succeeded(vec![contribution]);
    // The record that decides, then the value; the delta is lost with the process.
    sandbox.store.faults().kill_after(2);
    let _ = sandbox.finish(&held, outcome, Vec::new()).await;
    let sandbox = sandbox.kill_and_restart().await;
    let ended = |mirror: &crate::engine::mirror::Mirror| {
        let mut rows = mirror.tasks.rows();
        rows.all(|row| row.task.status().is_terminal())
    };
    sandbox.until(ended).await;
    assert_eq!(sandbox.fetch("image").await, picture(4, 200_000));
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_watch_gets_a_stub_or_the_value_as_it_asks() {
    let sandbox = Sandbox::new().await;
    let image = picture(1, 300_000);
    sandbox.show("image", image.clone()).await;
    let mut stubs = sandbox.watch(None).await;
    let mut inline = sandbox.watch(Some(1 << 20)).await;
    let mut smaller = sandbox.watch(Some(200_000)).await;
    for again in 0..2 {
        let stub = items(&mut stubs).await.remove(0);
        assert!(stub.stub && stub.inline().is_none());
        let held = stub.value.unwrap().value;
        assert_eq!(held.size(), image.len());
        assert_eq!(held.large().unwrap().content_type, "image/png");
        let whole = items(&mut inline).await.remove(0);
        assert!(!whole.stub);
        assert_eq!(whole.inline(), Some(&picture(1 + again, 300_000)));
        assert!(items(&mut smaller).await.remove(0).stub);
        sandbox.show("image", picture(2, 300_000)).await;
    }
}

#[tokio::test]
async fn watchers_share_one_copy_of_a_value() {
    let sandbox = Sandbox::new().await;
    sandbox.show("image", picture(1, 300_000)).await;
    let mut first = sandbox.watch(Some(1 << 20)).await;
    let mut second = sandbox.watch(Some(1 << 20)).await;
    let (first, second) = (items(&mut first).await, items(&mut second).await);
    let address = |items: &[StateItem]| items[0].inline().unwrap().as_ptr();
    assert_eq!(address(&first), address(&second));
}

#[tokio::test]
async fn inline_values_come_in_frames_of_a_bounded_size() {
    let sandbox = Sandbox::new().await;
    let most = MAX_VALUE_BYTES - (picture(0, 1 << 20).len() - (1 << 20));
    for number in 0..4 {
        let key = format!("k{number}");
        sandbox.show(&key, picture(number, most)).await;
    }
    sandbox.update("s", vec![put("small", 1)]).await.unwrap();
    let mut watch = sandbox.watch(Some(1 << 20)).await;
    let mut seen = 0;
    while seen < 5 {
        let items = items(&mut watch).await;
        let bytes: usize = items.iter().map(|item| item.inline().unwrap().len()).sum();
        assert!(bytes <= 1 << 20, "{bytes} bytes in a frame");
        seen += items.len();
    }
}

#[tokio::test]
async fn a_value_replaced_before_it_could_be_sent_comes_as_a_stub_and_the_newer_one_follows() {
    let sandbox = Sandbox::new().await;
    let size = 900_000;
    sandbox.show("a", picture(1, size)).await;
    let older = sandbox.show("b", picture(2, size)).await;
    // Nothing is at hand any more.
    let sandbox = sandbox.kill_and_restart().await;
    let mut watch = sandbox.watch(Some(1 << 20)).await;
    // Both are collected in one look at the mirror, and go in two frames.
    let first = items(&mut watch).await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].inline(), Some(&picture(1, size)));
    let place = sandbox.place("b");
    for number in 0..20 {
        sandbox.show("b", picture(10 + number, size)).await;
    }
    assert_eq!(sandbox.namespace.large_value(place).await.unwrap(), None);
    let second = items(&mut watch).await.remove(0);
    assert!(second.stub && second.inline().is_none());
    assert_eq!(second.revision, older);
    let third = items(&mut watch).await.remove(0);
    assert_eq!(third.inline(), Some(&picture(29, size)));
    assert!(third.revision > older);
}

#[tokio::test]
async fn a_watch_ends_with_an_error_where_a_value_cannot_be_read() {
    let sandbox = Sandbox::new().await;
    sandbox.show("image", picture(1, 300_000)).await;
    let sandbox = sandbox.kill_and_restart().await;
    let mut watch = sandbox.watch(Some(1 << 20)).await;
    sandbox.store.faults().kill();
    let error = loop {
        match watch.next().await.unwrap() {
            Ok(Frame::Opened { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason, Reason::JournalUnavailable);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_token_of_another_inline_limit_does_not_resume() {
    let sandbox = Sandbox::new().await;
    let at = sandbox.show("image", picture(1, 300_000)).await;
    let token = |watch: StateWatch| watch.token(at);
    let (default, same) = (
        token(sandbox.watch(None).await),
        token(sandbox.watch(Some(MAX_INLINE_VALUE_BYTES)).await),
    );
    assert_eq!(default, same);
    let inline = WatchStates {
        states: vec![StateId::trusted("s")],
        inline_limit: Some(1 << 20),
        options: WatchOptions {
            resume_token: default,
            ..WatchOptions::default()
        },
        ..WatchStates::default()
    };
    let mut watch = sandbox.namespace.watch_states(inline).await.unwrap();
    // What it left out the client has not seen, so it begins anew.
    assert_eq!(items_after_reset(&mut watch).await.len(), 1);
}

async fn items_after_reset(watch: &mut StateWatch) -> Vec<StateItem> {
    let mut reset = false;
    loop {
        match watch.next().await.unwrap().unwrap() {
            Frame::Reset { .. } => reset = true,
            Frame::Snapshot(items) if reset => return items,
            Frame::Opened { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The cache is the process's, whatever the number of namespaces.
#[tokio::test]
async fn namespaces_share_a_cache_and_do_not_mix_their_values() {
    let sandbox = Sandbox::new().await;
    let cache = Arc::new(ValueCache::new(CACHED_BYTES));
    let journal = sandbox
        .store
        .open(&NamespaceId::trusted("default"))
        .unwrap();
    let (one, other) = (
        Values::new(journal.clone(), cache.clone()),
        Values::new(journal, cache),
    );
    one.keep(Revision(1), &picture(1, 70_000));
    assert_eq!(one.cached_bytes(), other.cached_bytes());
    assert_eq!(other.get(Revision(1)).await.unwrap(), None);
    assert!(one.get(Revision(1)).await.unwrap().is_some());
}
