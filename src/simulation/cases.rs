//! Cases that must be met, each by itself and without any other fault: what the seeds do at random,
//! told as stories.

use super::{
    call::{Purpose, Request, state_name},
    event::Event,
    history::{Frame, Start, Stream},
    plan::{STATES, update},
    truth::Seen,
    watcher::{Watcher, Wish},
    worker::{integer, seconds},
    world::{STEP_LANE, World},
};
use crate::proto::v1::{
    DeleteStateRequest, KeyFilter, UpdateStateRequest, WatchOptions, key_update::Operation,
};

/// Longer than deletions are remembered.
const LONG_MS: u64 = 700_000;

/// Runs a story in a world where nothing goes wrong by itself, and checks every promise.
fn story(tell: impl AsyncFnOnce(&mut World)) {
    super::in_virtual_time(async {
        let mut world = World::new(1, 0).await;
        world.calm = true;
        world.server.disk.be_fast();
        tell(&mut world).await;
        world.come_to_rest().await;
        world.check();
        world.replay_is_the_same().await;
        world.server.kill().await;
        assert_eq!(world.violations, [""; 0]);
    });
}

impl World {
    /// Somebody who watches everything.
    fn somebody_watches(&mut self) -> usize {
        let wish = Wish::States {
            names: STATES.to_vec(),
            filter: KeyFilter::default(),
            inline_limit: 0,
        };
        let options = WatchOptions {
            heartbeat_interval: seconds(5),
            ..Default::default()
        };
        self.join(Watcher::new(wish, options, None));
        self.watchers.len() - 1
    }

    async fn wait(&mut self, for_ms: u64) {
        let until = self.net.now_ms() + for_ms;
        self.net.post(STEP_LANE, for_ms, Event::Nothing);
        self.run_until(for_ms + 1, move |world| world.net.now_ms() >= until)
            .await;
    }

    async fn write(&mut self, key: &str, operation: Operation) {
        let request = UpdateStateRequest {
            name: state_name("s0"),
            updates: vec![update(key, operation)],
            ..Default::default()
        };
        self.call(Request::Update(request), Purpose::Forget);
        self.wait(2_000).await;
    }

    /// The watcher goes; the token of where it was stays.
    fn goes_away(&mut self, index: usize) {
        self.watchers[index].closed = true;
        let conn = self.watchers[index].conn.take();
        self.hang_up(conn.expect("it is connected"));
    }

    /// It comes back with its token, and is a watcher of its own in the books.
    async fn come_back(&mut self, index: usize) -> &Stream<Seen> {
        let place = self.watchers[index]
            .place
            .clone()
            .expect("it was somewhere");
        let fork = self.watchers[index].fork(&place);
        self.join(fork);
        self.wait(2_000).await;
        let back = self.watchers.last().expect("it has joined");
        back.streams.last().expect("it was opened")
    }
}

#[track_caller]
fn begins(stream: &Stream<Seen>, start: Start) {
    let first = stream.frames.first();
    let Some(Frame::Opened { start: found, .. }) = first else {
        panic!("a stream begins with `opened`, not with {first:?}");
    };
    assert_eq!(*found, start);
}

fn is_reset(stream: &Stream<Seen>) -> bool {
    stream
        .frames
        .iter()
        .any(|frame| matches!(frame, Frame::Reset))
}

#[test]
fn a_deletion_is_told_to_whoever_comes_back_in_time() {
    story(async |world| {
        let watcher = world.somebody_watches();
        world.write("a", Operation::Put(integer(1))).await;
        world.goes_away(watcher);
        world.write("a", Operation::Delete(true)).await;
        let stream = world.come_back(watcher).await;
        begins(stream, Start::Resumed);
        let gone = stream.frames.iter().any(|frame| {
            matches!(frame, Frame::Delta { changes, .. } if changes.iter().any(|c| c.value.is_none()))
        });
        assert!(gone, "the deletion is not in {stream:?}");
        assert_eq!(world.counts.get("case: resumed over a deletion"), 1);
    });
}

#[test]
fn a_stale_token_behind_a_compacted_deletion_begins_anew() {
    story(async |world| {
        let watcher = world.somebody_watches();
        world.write("a", Operation::Put(integer(1))).await;
        world.goes_away(watcher);
        let request = DeleteStateRequest {
            name: state_name("s0"),
            uid: String::new(),
        };
        world.call(Request::Delete(request), Purpose::Forget);
        // Long enough for the deletion to be forgotten, with others going on meanwhile.
        world.wait(LONG_MS).await;
        world.write("b", Operation::Put(integer(2))).await;
        world.wait(LONG_MS).await;
        let stream = world.come_back(watcher).await;
        assert!(
            is_reset(stream),
            "it goes on over what is forgotten: {stream:?}"
        );
        assert_eq!(world.counts.get("watch: reset, compacted"), 1);
    });
}

#[test]
fn a_token_outlives_a_kill_of_the_server() {
    story(async |world| {
        let watcher = world.somebody_watches();
        world.write("a", Operation::Put(integer(1))).await;
        world.goes_away(watcher);
        world.crash().await;
        world.wait(5_000).await;
        world.write("a", Operation::Put(integer(2))).await;
        let stream = world.come_back(watcher).await;
        begins(stream, Start::Resumed);
        assert!(!is_reset(stream));
    });
}

#[test]
fn a_token_of_another_epoch_begins_anew() {
    story(async |world| {
        let watcher = world.somebody_watches();
        world.write("a", Operation::Put(integer(1))).await;
        world.goes_away(watcher);
        world.change_epoch(false).await;
        world.wait(5_000).await;
        let stream = world.come_back(watcher).await;
        assert!(
            is_reset(stream),
            "revisions of two epochs are compared: {stream:?}"
        );
        assert_eq!(world.counts.get("watch: reset, epoch changed"), 1);
    });
}

#[test]
fn a_watcher_that_stays_sees_an_older_copy_restored() {
    story(async |world| {
        world.somebody_watches();
        world.write("a", Operation::Put(integer(1))).await;
        world.backup = Some(world.server.disk.backup());
        world.write("a", Operation::Put(integer(2))).await;
        world.write("b", Operation::Put(integer(3))).await;
        world.change_epoch(true).await;
        world.wait(5_000).await;
        assert!(world.lossy);
        assert_eq!(world.counts.get("watch: reset, epoch changed"), 1);
    });
}
