//! Followed keys, over a connection in memory to a server that says what the test says.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::{
    client::{encode_value, fake::Fake},
    proto::v1::{
        KeyChange, Position, StateChunk, StateDelta, Value, ValueStub, WatchOpened,
        WatchStateRequest, WatchStateResponse, WatchSynced, key_change::Change,
        watch_opened::Start, watch_state_response::Frame,
    },
};

const OWN: &str = "namespaces/default/tasks/t1";

type Sent = mpsc::Sender<Result<WatchStateResponse, tonic::Status>>;

/// The streams that were opened, each with what it asked for.
type Streams = mpsc::Receiver<(WatchStateRequest, Sent)>;

fn serve() -> (Client, Streams) {
    let (opened, streams) = mpsc::channel(8);
    let watch_state = move |request| {
        let (sent, frames) = mpsc::channel(64);
        opened.try_send((request, sent)).expect("few are opened");
        Ok(ReceiverStream::new(frames).boxed())
    };
    let fake = Fake {
        watch_state: Some(Box::new(watch_state)),
        ..Fake::default()
    };
    (fake.serve(), streams)
}

fn position(revision: i64) -> Option<Position> {
    Some(Position {
        revision,
        resume_token: revision.to_string().into(),
    })
}

fn put(key: &str, value: impl Into<Value>, mod_revision: i64, source: &str) -> KeyChange {
    KeyChange {
        key: key.to_owned(),
        change: Some(Change::Value(encode_value(&value.into()))),
        mod_revision,
        source: source.to_owned(),
        ..KeyChange::default()
    }
}

async fn send(to: &Sent, frame: Frame) {
    let response = WatchStateResponse { frame: Some(frame) };
    to.send(Ok(response)).await.unwrap();
}

async fn snapshot(to: &Sent, revision: i64, entries: Vec<KeyChange>) {
    let opened = WatchOpened {
        start: Start::Snapshot.into(),
        position: position(revision),
        ..WatchOpened::default()
    };
    send(to, Frame::Opened(opened)).await;
    send(to, Frame::Snapshot(StateChunk { entries })).await;
    let position = position(revision);
    send(to, Frame::Synced(WatchSynced { position })).await;
}

async fn delta(to: &Sent, base_revision: i64, change: KeyChange) {
    let delta = StateDelta {
        base_revision,
        position: position(base_revision + 1),
        changes: vec![change],
        folded_commits: 1,
        more: false,
    };
    send(to, delta.into()).await;
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("it comes at once")
}

fn news(changes: &Changes) -> Vec<&str> {
    changes.iter().map(|(key, _)| key).collect()
}

/// Waits until the follower has what the server sent last: the marker key tells.
async fn until_holds(params: &KeyWatch, key: &str, value: i64) {
    let board = &params.follower.board;
    soon(board.until(|| (params.get::<i64>(key) == Some(value)).then_some(()))).await;
}

#[tokio::test]
async fn the_first_look_gives_what_is_there_and_later_ones_what_is_new() {
    let (client, mut streams) = serve();
    let mut params = client.watch_keys("run", ["zoom", "palette"]);
    assert!(params.try_changed().unwrap().is_none());
    let (request, sent) = soon(streams.recv()).await.unwrap();
    assert_eq!(request.keys.unwrap().exact, ["palette", "zoom"]);
    snapshot(&sent, 5, vec![put("zoom", 2, 3, "client")]).await;
    let first = soon(params.changed()).await.unwrap();
    assert_eq!((news(&first), first.get("zoom")), (vec!["zoom"], Some(2)));
    assert_eq!(first.get::<String>("palette"), None);
    delta(&sent, 5, put("palette", "fire", 6, "client")).await;
    let second = soon(params.changed()).await.unwrap();
    assert_eq!(news(&second), ["palette"]);
    assert!(second.has("palette") && !second.has("zoom"));
    // What did not change is there all the same.
    assert_eq!(second.get("zoom"), Some(2));
    assert_eq!(second.entry("palette").unwrap().source, "client");
    let deleted = KeyChange {
        change: Some(Change::Deleted(true)),
        ..put("zoom", 0, 7, "client")
    };
    delta(&sent, 6, deleted).await;
    let third = soon(params.changed()).await.unwrap();
    assert_eq!(third.iter().next().unwrap(), ("zoom", None));
}

#[tokio::test]
async fn who_looks_late_sees_the_latest_value_alone() {
    let (client, mut streams) = serve();
    let mut params = client.watch_keys("run", ["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    snapshot(&sent, 5, vec![put("zoom", 0, 3, "client")]).await;
    for step in 1..=50 {
        delta(&sent, 4 + step, put("zoom", step, 5 + step, "client")).await;
    }
    until_holds(&params, "zoom", 50).await;
    let changes = soon(params.changed()).await.unwrap();
    assert_eq!(changes.get("zoom"), Some(50));
    assert!(params.try_changed().unwrap().is_none());
}

#[tokio::test]
async fn all_who_follow_a_state_share_one_watch_that_grows_with_their_keys() {
    let (client, mut streams) = serve();
    let follower = KeyFollower::new(&client, "run", OWN);
    let mut zoom = follower.follow(["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    snapshot(&sent, 5, vec![put("zoom", 1, 3, "client")]).await;
    soon(zoom.changed()).await.unwrap();
    // The same key needs no other watch.
    let mut again = follower.follow(["zoom"]);
    assert_eq!(soon(again.changed()).await.unwrap().get("zoom"), Some(1));
    let mut speed = follower.follow(["speed", "zoom"]);
    let (request, second) = soon(streams.recv()).await.unwrap();
    assert_eq!(request.keys.unwrap().exact, ["speed", "zoom"]);
    // Both are known only when the second watch has caught up.
    assert!(speed.try_changed().unwrap().is_none());
    let entries = vec![put("zoom", 1, 3, "client"), put("speed", 9, 6, "client")];
    snapshot(&second, 6, entries).await;
    let changes = soon(speed.changed()).await.unwrap();
    assert_eq!(news(&changes), ["speed", "zoom"]);
    // For who followed before, nothing happened.
    assert!(zoom.try_changed().unwrap().is_none());
    soon(sent.closed()).await;
}

#[tokio::test]
async fn what_the_task_itself_wrote_is_told_and_its_echo_is_not() {
    let (client, mut streams) = serve();
    let follower = KeyFollower::new(&client, "run", OWN);
    let mut params = follower.follow(["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    snapshot(&sent, 5, vec![put("zoom", 5000, 3, "client")]).await;
    assert!(!soon(params.changed()).await.unwrap().is_own("zoom"));
    // A handler puts it in order, and does the same when it hears of that.
    delta(&sent, 5, put("zoom", 1000, 6, OWN)).await;
    assert!(soon(params.changed()).await.unwrap().is_own("zoom"));
    delta(&sent, 6, put("zoom", 1000, 7, OWN)).await;
    // Somebody else's write of the same value is news.
    delta(&sent, 7, put("zoom", 1000, 8, "client")).await;
    let changes = soon(params.changed()).await.unwrap();
    assert!(!changes.is_own("zoom"));
    assert_eq!(changes.entry("zoom").unwrap().mod_revision, 8);
}

#[tokio::test]
async fn a_value_of_another_type_is_named_with_its_key() {
    let (client, mut streams) = serve();
    let mut params = client.watch_keys("run", ["zoom", "image"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    let stub = KeyChange {
        change: Some(Change::Stub(ValueStub::default())),
        ..put("image", 0, 4, "client")
    };
    snapshot(&sent, 5, vec![put("zoom", "much", 3, "client"), stub]).await;
    let changes = soon(params.changed()).await.unwrap();
    assert_eq!(changes.get::<f64>("zoom"), None);
    let error = changes.try_get::<f64>("zoom").unwrap_err();
    assert_eq!(error.reason(), "VALUE_TYPE");
    assert!(error.message().contains("`zoom`") && error.message().contains("much"));
    let error = changes.try_get::<f64>("image").unwrap_err();
    assert_eq!(error.reason(), "VALUE_TOO_LARGE");
    assert_eq!(changes.try_get::<f64>("other").unwrap(), None);
}

#[tokio::test]
async fn a_key_that_is_not_set_is_known_to_be_so_after_the_first_look() {
    let (client, mut streams) = serve();
    let params = client.watch_keys("run", ["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    let follower = tokio::spawn(async move {
        params.synced().await.unwrap();
        params.get::<i64>("zoom")
    });
    snapshot(&sent, 5, vec![]).await;
    assert_eq!(soon(follower).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_follower_ends_those_who_wait_and_its_watch() {
    let (client, mut streams) = serve();
    let follower = KeyFollower::new(&client, "run", OWN);
    let mut params = follower.follow(["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    let waiting = tokio::spawn(async move { params.changed().await.unwrap_err() });
    follower.close();
    assert_eq!(soon(waiting).await.unwrap().reason(), "ATTEMPT_ENDED");
    let mut late = follower.follow(["speed"]);
    let error = soon(late.changed()).await.unwrap_err();
    assert_eq!(error.reason(), "ATTEMPT_ENDED");
    soon(sent.closed()).await;
}

#[tokio::test]
async fn the_watch_ends_with_the_last_who_follows() {
    let (client, mut streams) = serve();
    let params = client.watch_keys("run", ["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    drop(params);
    soon(sent.closed()).await;
}

#[tokio::test]
async fn what_no_reconnect_can_mend_is_told() {
    let (client, mut streams) = serve();
    let mut params = client.watch_keys("Bad Name", ["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    let refused = tonic::Status::invalid_argument("names: `Bad Name` is no name");
    sent.send(Err(refused)).await.unwrap();
    let error = soon(params.changed()).await.unwrap_err();
    assert!(error.message().contains("Bad Name"), "{error}");
}

#[tokio::test]
async fn keys_over_the_limit_are_refused_to_who_asks_and_nobody_else_loses_the_watch() {
    let (client, mut streams) = serve();
    let follower = KeyFollower::new(&client, "run", OWN);
    let mut zoom = follower.follow(["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    snapshot(&sent, 5, vec![put("zoom", 1, 3, "client")]).await;
    soon(zoom.changed()).await.unwrap();
    let many = || (0..256).map(|index| format!("key{index}"));
    let mut refused = follower.follow(many());
    let error = soon(refused.changed()).await.unwrap_err();
    assert_eq!(error.reason(), "KEYS_TOO_MANY");
    assert!(error.message().contains("257") && error.message().contains("256"));
    assert_eq!(
        refused.synced().await.unwrap_err().reason(),
        "KEYS_TOO_MANY"
    );
    let mut long = follower.follow(["x".repeat(257)]);
    assert_eq!(
        soon(long.changed()).await.unwrap_err().reason(),
        "KEY_INVALID"
    );
    delta(&sent, 5, put("zoom", 2, 6, "client")).await;
    assert_eq!(soon(zoom.changed()).await.unwrap().get("zoom"), Some(2));
    // As many as there is room for are followed all the same.
    let _most = follower.follow(many().skip(1));
    let (request, _second) = soon(streams.recv()).await.unwrap();
    assert_eq!(request.keys.unwrap().exact.len(), 256);
}

#[tokio::test]
async fn who_has_seen_nothing_is_not_told_of_a_key_that_was_set_and_deleted_before() {
    let (client, mut streams) = serve();
    let follower = KeyFollower::new(&client, "run", OWN);
    let mut early = follower.follow(["zoom"]);
    let (_, sent) = soon(streams.recv()).await.unwrap();
    snapshot(&sent, 5, vec![put("zoom", 1, 3, "client")]).await;
    soon(early.changed()).await.unwrap();
    let deleted = KeyChange {
        change: Some(Change::Deleted(true)),
        ..put("zoom", 0, 6, "client")
    };
    delta(&sent, 5, deleted).await;
    let told = soon(early.changed()).await.unwrap();
    assert_eq!((news(&told), told.has("zoom")), (vec!["zoom"], true));
    let mut late = follower.follow(["zoom"]);
    assert!(late.try_changed().unwrap().is_none());
    delta(&sent, 6, put("zoom", 3, 7, "client")).await;
    assert_eq!(soon(late.changed()).await.unwrap().get("zoom"), Some(3));
}
