//! A namespace's monitor panics: what was acknowledged stays, the others try again, and the server
//! goes on.

use super::{
    super::{
        intake::PushNews,
        recovery::Point,
        store::fold,
        watch::{Frame, StateItem, WatchOptions, WatchStates},
    },
    *,
};
use crate::{
    domain::Reason,
    journal::{Durability, LocalStore, memory::Fault},
    runtime::TaskError,
};

/// An engine whose jobs are looked at, on a store of either kind.
struct Scene {
    sandbox: Sandbox,
    store: Arc<dyn Store>,
    jobs: Registry,
    shutdown: CancellationToken,
    _folder: Option<tempfile::TempDir>,
}

impl Scene {
    async fn start(
        memory: MemoryStore,
        store: Arc<dyn Store>,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let shutdown = CancellationToken::new();
        let jobs = Registry::new(shutdown.clone());
        let engine = Engine::start(store.clone(), jobs.clone()).await.unwrap();
        let namespace = engine.existing(&NamespaceId::trusted("default")).unwrap();
        Self {
            sandbox: Sandbox {
                store: memory,
                engine,
                namespace,
            },
            store,
            jobs,
            shutdown,
            _folder: folder,
        }
    }

    async fn in_memory() -> Self {
        let memory = MemoryStore::new(Uid(1));
        Self::start(memory.clone(), Arc::new(memory), None).await
    }

    async fn on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&folder.path().join("data"), Durability::None).unwrap();
        Self::start(MemoryStore::new(Uid(1)), Arc::new(store), Some(folder)).await
    }

    fn set(&self, point: Point) {
        self.sandbox.namespace.shared().trap.set(point);
    }

    /// Adds 5 to a counter and puts a key beside it, once however often it is asked.
    async fn add(&self, request: u128) -> Result<Updated, Error> {
        let request = UpdateRequest {
            state: StateId::trusted("s"),
            ops: vec![op(1, "n", Op::Add(integer(5))), put("k", 1)],
            rejected: Vec::new(),
            request_id: Some(Uid(request)),
            expected: None,
            lease: None,
            source: "client".into(),
        };
        self.sandbox.namespace.update(request).await
    }

    /// It panicked so often, was started again as often, and is what the journal says.
    async fn assert_whole(&self, panics: u64) {
        let counts = self.jobs.by_kind()["monitor"];
        assert_eq!(
            (counts.panicked, counts.restarts, counts.failed),
            (panics, panics, 0)
        );
        let job = self.jobs.jobs();
        let job = job.iter().find(|job| job.name == "monitor of default");
        let job = job.unwrap();
        assert_eq!((job.failures, job.running), (panics, true));
        assert!(!self.shutdown.is_cancelled());
        let id = NamespaceId::trusted("default");
        let replayed = fold(self.store.open(&id).unwrap().as_ref()).unwrap();
        self.sandbox
            .namespace
            .read(|live| assert_eq!(*live, replayed));
        self.sandbox.assert_lines_follow_the_mirror().await;
    }
}

/// What a client of a state watch holds; the chain of positions is checked.
#[derive(Default)]
struct Chain {
    keys: BTreeMap<String, Revision>,
    position: Revision,
}

impl Chain {
    fn take(&mut self, frame: Frame<StateItem>) {
        let (items, position) = match frame {
            Frame::Opened { position, .. } => (Vec::new(), Some(position)),
            Frame::Synced(position) => (Vec::new(), Some(position)),
            Frame::Bookmark { position, .. } => (Vec::new(), Some(position)),
            Frame::Snapshot(items) => (items, None),
            Frame::Delta {
                base,
                position,
                items,
                ..
            } => {
                assert_eq!(base, self.position);
                (items, position)
            }
            other => panic!("the watch does not go on: {other:?}"),
        };
        for item in items {
            self.keys.insert(item.key.to_string(), item.revision);
        }
        if let Some(position) = position {
            assert!(position >= self.position, "it went back");
            self.position = position;
        }
    }
}

async fn survives(scene: Scene, point: Point) {
    let sandbox = &scene.sandbox;
    let other = NamespaceId::trusted("other");
    let other = sandbox.engine.namespace(&other).await.unwrap();
    sandbox.create("done").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    sandbox.create("waits").await;
    scene.add(1).await.unwrap();
    let request = WatchStates {
        states: vec![StateId::trusted("s")],
        options: WatchOptions::default(),
        ..WatchStates::default()
    };
    let mut watch = sandbox.namespace.watch_states(request).await.unwrap();
    let mut chain = Chain::default();
    while chain.keys.len() < 2 || chain.position == Revision::ZERO {
        chain.take(watch.next().await.unwrap().unwrap());
    }
    let head = sandbox.namespace.head();

    scene.set(point);
    let error = scene.add(2).await.unwrap_err();
    assert_eq!(error.reason, Reason::NotReady);
    assert!(sandbox.namespace.head() >= head, "the head went back");
    // Nothing of it is seen by halves.
    let n = sandbox.number("s", "n");
    assert!(n == 5 || n == 10, "{n}");

    // The same again is done once, whether or not it was committed.
    scene.add(2).await.unwrap();
    let last = scene.add(3).await.unwrap().revision;
    assert_eq!(sandbox.number("s", "n"), 15);
    while chain.position < last {
        chain.take(watch.next().await.unwrap().unwrap());
    }
    let read = |slot: &super::super::mirror::StateSlot, _| {
        let rows = slot.state.table().iter();
        rows.map(|(key, revision, _)| (key.to_string(), revision))
            .collect::<BTreeMap<_, _>>()
    };
    let id = StateId::trusted("s");
    let keys = sandbox.namespace.read_state(&id, read).unwrap();
    assert_eq!(chain.keys, keys);

    // What was leased is still held, and what waited is handed out.
    let done = sandbox
        .finish(&held, super::succeeded(Vec::new()), Vec::new())
        .await
        .unwrap();
    assert_eq!(done.task.status(), Status::Succeeded);
    assert_eq!(sandbox.lease(2, 1).await[0].row.task.id, "waits");

    assert_eq!(other.head(), Revision::ZERO);
    scene.assert_whole(1).await;
    assert_eq!(scene.jobs.by_kind()["monitor"].running, 2);
    sandbox.engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_before_a_group_is_planned_loses_nothing() {
    survives(Scene::in_memory().await, Point::Plan).await;
    survives(Scene::on_disk().await, Point::Plan).await;
}

#[tokio::test]
async fn a_panic_while_a_group_is_on_its_way_loses_nothing() {
    survives(Scene::in_memory().await, Point::Append).await;
    survives(Scene::on_disk().await, Point::Append).await;
}

#[tokio::test]
async fn a_panic_with_half_a_group_folded_loses_nothing() {
    survives(Scene::in_memory().await, Point::Fold).await;
    survives(Scene::on_disk().await, Point::Fold).await;
}

#[tokio::test]
async fn a_panic_before_anyone_is_answered_loses_nothing() {
    survives(Scene::in_memory().await, Point::Settle).await;
    survives(Scene::on_disk().await, Point::Settle).await;
}

async fn pushes_once(scene: Scene, point: Point) {
    const LAST: u64 = 40;
    let sandbox = &scene.sandbox;
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    let (mut acked, mut streams) = (0, 0);
    while acked < LAST {
        let opened = sandbox.open("s", 7, None).await.unwrap();
        assert!(opened.last_sequence >= acked, "what was told is lost");
        acked = opened.last_sequence;
        let session = opened.claim();
        streams += 1;
        if streams == 1 {
            scene.set(point);
        }
        for number in acked + 1..=LAST {
            // Refused once the stream is closed; its news say why.
            let _ = sandbox.namespace.push(&session, &frame([push(number)]));
        }
        let mut end = None;
        // All of it may have been committed by the stream that broke.
        while end.is_none() && acked < LAST {
            match session.news().await {
                Ok(PushNews::Ack { sequence, .. }) => acked = sequence,
                Ok(other) => panic!("{other:?}"),
                Err(error) => end = Some(error.reason),
            }
        }
        assert!(end.is_none() || end == Some(Reason::StreamDraining));
        sandbox.namespace.leave(&session);
    }
    assert_eq!(streams, 2);
    assert_eq!(sandbox.number("s", "n"), 40);
    scene.assert_whole(1).await;
}

#[tokio::test]
async fn a_push_stream_is_told_to_open_again_and_every_batch_counts_once() {
    for point in [Point::Plan, Point::Append, Point::Fold, Point::Settle] {
        pushes_once(Scene::in_memory().await, point).await;
        pushes_once(Scene::on_disk().await, point).await;
    }
}

#[tokio::test]
async fn the_group_in_flight_is_settled_before_the_journal_is_replayed() {
    let scene = Scene::in_memory().await;
    scene.add(1).await.unwrap();
    let faults = scene.sandbox.store.faults();
    faults.shut_gate();
    scene.set(Point::Append);
    assert_eq!(scene.add(2).await.unwrap_err().reason, Reason::NotReady);
    faults.until_held(1).await;
    // Reads go on meanwhile; writes wait for the new life.
    assert_eq!(scene.sandbox.number("s", "n"), 5);
    faults.open_gate();
    scene.sandbox.until(|mirror| mirror.generation == 1).await;
    assert_eq!(scene.sandbox.number("s", "n"), 10);
    scene.add(2).await.unwrap();
    assert_eq!(scene.sandbox.number("s", "n"), 10);
    scene.assert_whole(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_panics_again_and_again_stops_the_server_with_the_reason() {
    let scene = Scene::in_memory().await;
    scene.add(1).await.unwrap();
    scene.set(Point::Loop);
    let error = scene.add(2).await.unwrap_err();
    assert_eq!(error.reason, Reason::NotReady);
    scene.shutdown.cancelled().await;
    scene.sandbox.namespace.ended().await;
    let (job, error) = scene.jobs.fatal_failure().unwrap();
    assert_eq!(job, "monitor of default");
    assert!(matches!(error, TaskError::Panicked { .. }), "{error}");
    let counts = scene.jobs.by_kind()["monitor"];
    assert_eq!((counts.panicked, counts.restarts), (5, 4));
    let error = scene.add(2).await.unwrap_err();
    assert_eq!(error.reason, Reason::NotReady);
}

#[tokio::test]
async fn an_outcome_nobody_can_tell_stops_the_server_after_a_panic_too() {
    let scene = Scene::in_memory().await;
    scene.add(1).await.unwrap();
    scene
        .sandbox
        .store
        .faults()
        .next_append(Fault::UnknownCommitted);
    scene.set(Point::Append);
    scene.add(2).await.unwrap_err();
    scene.shutdown.cancelled().await;
    scene.sandbox.namespace.ended().await;
    let (_, error) = scene.jobs.fatal_failure().unwrap();
    assert!(error.to_string().contains("unknown"), "{error}");
    let counts = scene.jobs.by_kind()["monitor"];
    assert_eq!((counts.panicked, counts.failed), (1, 1));
}
