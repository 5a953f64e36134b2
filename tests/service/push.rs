//! PushState.

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, push_directive::Kind, push_state_request::Frame as In,
    push_state_response::Frame as Out,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::sandbox::{
    STATE, Sandbox, WRITER, add, entries, expect, integer, name, output, put, reason, text,
};

/// The client's side of one stream. Its channel has room for all frames of a test.
struct Push {
    frames: mpsc::Sender<pb::PushStateRequest>,
    answers: Streaming<pb::PushStateResponse>,
}

fn open() -> pb::PushOpen {
    pb::PushOpen {
        state_name: STATE.into(),
        writer_id: WRITER.into(),
        ..Default::default()
    }
}

fn batch(sequence: i64, updates: Vec<pb::KeyUpdate>) -> pb::UpdateBatch {
    pb::UpdateBatch {
        sequence,
        updates,
        ..Default::default()
    }
}

impl Push {
    /// Begins a call without a frame: the answer's headers must not wait for one.
    async fn begin(server: &mut Sandbox) -> Self {
        let (frames, receiver) = mpsc::channel(64);
        let answers = server
            .states
            .push_state(ReceiverStream::new(receiver))
            .await;
        Self {
            frames,
            answers: answers.unwrap().into_inner(),
        }
    }

    async fn open(server: &mut Sandbox, open: pb::PushOpen) -> (Self, pb::PushOpened) {
        let mut push = Self::begin(server).await;
        push.send(In::Open(open)).await;
        match push.next().await.unwrap() {
            Some(Out::Opened(opened)) => (push, opened),
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, frame: In) {
        let frame = pb::PushStateRequest { frame: Some(frame) };
        self.frames.send(frame).await.unwrap();
    }

    async fn batches(&self, batches: Vec<pb::UpdateBatch>) {
        self.send(pb::UpdateBatches { batches }.into()).await;
    }

    async fn next(&mut self) -> Result<Option<Out>, Status> {
        Ok(self
            .answers
            .message()
            .await?
            .and_then(|answer| answer.frame))
    }

    /// Reads until everything up to `sequence` is acknowledged; what was rejected on the way.
    async fn acked(&mut self, sequence: i64) -> Vec<pb::RejectedKey> {
        let mut rejected = Vec::new();
        loop {
            let Out::Ack(ack) = self.next().await.unwrap().unwrap() else {
                panic!("no acknowledgement")
            };
            assert!(ack.window.unwrap().max_unacked_batches >= 1);
            assert!(ack.acked_sequence <= sequence);
            rejected.extend(ack.rejected);
            if ack.acked_sequence == sequence {
                return rejected;
            }
        }
    }

    /// Closes the client's half and reads the rest.
    async fn close(self) -> Result<Vec<Out>, Status> {
        let Self {
            frames,
            mut answers,
        } = self;
        drop(frames);
        let mut rest = Vec::new();
        while let Some(answer) = answers.message().await? {
            rest.extend(answer.frame);
        }
        Ok(rest)
    }

    async fn ends_with(mut self) -> String {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => return reason(&status),
            }
        }
    }
}

#[tokio::test]
async fn batches_are_acknowledged_and_repeats_have_no_effect() {
    let mut server = Sandbox::new().await;
    let (mut push, opened) = Push::open(&mut server, open()).await;
    assert_eq!(opened.last_sequence, 0);
    assert_eq!(opened.keepalive_interval.unwrap().seconds, 10);
    push.batches((1..=10).map(|n| batch(n, vec![add("n", 1)])).collect())
        .await;
    assert_eq!(push.acked(10).await, []);
    push.send(In::Keepalive(pb::PushKeepalive {})).await;
    push.batches(vec![
        batch(9, vec![add("n", 1)]),
        batch(10, vec![add("n", 1)]),
    ])
    .await;
    push.acked(10).await;
    assert!(push.close().await.is_ok());
    assert_eq!(
        entries(&server.state().await.unwrap()),
        [("n", integer(10))]
    );

    // After a break the server says what it has.
    let (mut push, opened) = Push::open(&mut server, open()).await;
    assert_eq!(opened.last_sequence, 10);
    let last = pb::UpdateBatch {
        r#final: true,
        ..batch(11, Vec::new())
    };
    push.batches(vec![last]).await;
    push.acked(11).await;
}

#[tokio::test]
async fn the_stream_ends_well_once_everything_is_acknowledged() {
    let mut server = Sandbox::new().await;
    let (push, _) = Push::open(&mut server, open()).await;
    for n in 1..=50 {
        push.batches(vec![batch(n, vec![put("n", integer(n))])])
            .await;
    }
    let rest = push.close().await.unwrap();
    let Some(Out::Ack(ack)) = rest.last() else {
        panic!("{rest:?}")
    };
    assert_eq!(ack.acked_sequence, 50);
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("n", integer(50))]);
    assert_eq!(ack.revision, state.revision);
}

#[tokio::test]
async fn the_last_batch_of_a_writer_waits_for_no_merge_interval() {
    for is_final in [true, false] {
        let mut server = Sandbox::new().await;
        let settings = pb::UpdateStateSettingsRequest {
            name: STATE.into(),
            settings: Some(pb::StateSettings {
                merge_interval: Some(prost_types::Duration {
                    seconds: 5,
                    nanos: 0,
                }),
                retention: None,
            }),
        };
        server.states.update_state_settings(settings).await.unwrap();
        let (mut push, _) = Push::open(&mut server, open()).await;
        push.batches(vec![batch(1, vec![add("n", 1)])]).await;
        push.acked(1).await;
        let begun = std::time::Instant::now();
        let last = pb::UpdateBatch {
            r#final: is_final,
            ..batch(2, vec![add("n", 1)])
        };
        push.batches(vec![last]).await;
        if is_final {
            push.acked(2).await;
        } else {
            let rest = push.close().await.unwrap();
            let Some(Out::Ack(ack)) = rest.last() else {
                panic!("{rest:?}")
            };
            assert_eq!(ack.acked_sequence, 2);
        }
        // The interval is far from over.
        assert!(begun.elapsed() < std::time::Duration::from_secs(4));
    }
}

#[tokio::test]
async fn a_gap_is_answered_with_a_rewind_and_the_stream_goes_on() {
    let mut server = Sandbox::new().await;
    let (mut push, _) = Push::open(&mut server, open()).await;
    push.batches(vec![batch(1, vec![add("n", 1)])]).await;
    push.acked(1).await;
    push.batches(vec![batch(3, vec![add("n", 1)])]).await;
    let answer = push.next().await.unwrap();
    let rewind = pb::PushRewind {
        expected_sequence: 2,
    };
    assert_eq!(answer, Some(Out::Rewind(rewind)));
    push.batches(vec![
        batch(2, vec![add("n", 1)]),
        batch(3, vec![add("n", 1)]),
    ])
    .await;
    push.acked(3).await;
    assert_eq!(entries(&server.state().await.unwrap()), [("n", integer(3))]);
}

#[tokio::test]
async fn bad_keys_are_told_with_the_acknowledgement_and_wedge_nothing() {
    let mut server = Sandbox::new().await;
    let (mut push, _) = Push::open(&mut server, open()).await;
    let large = text(&"x".repeat((1 << 20) - 1_024));
    let batches = vec![
        batch(
            1,
            vec![put("good", text("x")), put(&"k".repeat(257), integer(1))],
        ),
        batch(2, vec![put("large", large.clone())]),
        batch(3, vec![put("a", large.clone()), put("b", large)]),
        batch(4, vec![add("good", 1), put("last", integer(4))]),
    ];
    push.batches(batches).await;
    let mut rejected = push.acked(4).await;
    rejected.sort_by_key(|key| key.sequence);
    let told = rejected
        .iter()
        .map(|key| (key.sequence, key.reason.as_str(), key.key.len()));
    let expected = [
        (1, "KEY_INVALID", 256),
        (2, "VALUE_TOO_LARGE", 5),
        (3, "VALUE_TOO_LARGE", 1),
        (3, "VALUE_TOO_LARGE", 1),
        (4, "TYPE_MISMATCH", 4),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("good", text("x")), ("last", integer(4))]);
}

#[tokio::test]
async fn a_cancel_is_told_and_a_lost_lease_ends_the_stream() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let leased = pb::PushOpen {
        lease_token: lease.lease_token.clone(),
        ..open()
    };
    let (mut push, _) = Push::open(&mut server, leased.clone()).await;
    push.batches(vec![batch(1, vec![put("k", integer(1))])])
        .await;
    push.acked(1).await;
    let cancel = pb::CancelTaskRequest {
        name: name("t"),
        ..Default::default()
    };
    server.tasks.cancel_task(cancel).await.unwrap();
    let Some(Out::Directive(directive)) = push.next().await.unwrap() else {
        panic!("no directive")
    };
    assert_eq!(directive.kind(), Kind::CancelRequested);
    server.finish(output(&lease, b"")).await;
    push.batches(vec![batch(2, vec![put("k", integer(2))])])
        .await;
    assert_eq!(push.ends_with().await, "LEASE_LOST");
    let again = Push::begin(&mut server).await;
    again.send(In::Open(leased)).await;
    assert_eq!(again.ends_with().await, "LEASE_LOST");
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("k", integer(1))]);
    assert_eq!(state.entries[0].source, name("t"));
}

#[tokio::test]
async fn the_newest_stream_of_a_writer_takes_it_over() {
    let mut server = Sandbox::new().await;
    let (older, _) = Push::open(&mut server, open()).await;
    let (mut newer, _) = Push::open(&mut server, open()).await;
    assert_eq!(older.ends_with().await, "WRITER_TAKEN_OVER");
    newer
        .batches(vec![batch(1, vec![put("k", integer(1))])])
        .await;
    newer.acked(1).await;
    let monitor = pb::GetMonitorRequest { name: STATE.into() };
    let monitor = server
        .states
        .get_monitor(monitor)
        .await
        .unwrap()
        .into_inner()
        .monitor
        .unwrap();
    assert_eq!((monitor.writers, monitor.merged_batches), (1, 1));
}

#[tokio::test]
async fn a_draining_server_asks_writers_to_reconnect_after_their_window() {
    let mut server = Sandbox::new().await;
    let (mut push, _) = Push::open(&mut server, open()).await;
    server.engine.drain();
    let Some(Out::Directive(directive)) = push.next().await.unwrap() else {
        panic!("no directive")
    };
    assert_eq!(directive.kind(), Kind::Reconnect);
    push.batches(vec![batch(1, vec![put("k", integer(1))])])
        .await;
    push.acked(1).await;
    assert_eq!(push.close().await.unwrap(), []);
}

#[tokio::test]
async fn a_writer_that_does_not_leave_a_draining_server_is_sent_away() {
    let mut server = Sandbox::new().await;
    let (push, _) = Push::open(&mut server, open()).await;
    server.engine.drain();
    tokio::time::pause();
    assert_eq!(push.ends_with().await, "STREAM_DRAINING");
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let mut server = Sandbox::new().await;
    let unopened = Push::begin(&mut server).await;
    let (push, _) = Push::open(&mut server, open()).await;
    tokio::time::pause();
    assert_eq!(unopened.ends_with().await, "STREAM_DRAINING");
    assert_eq!(push.ends_with().await, "STREAM_DRAINING");
}

#[tokio::test]
async fn wrong_first_frames_name_their_reason() {
    let mut server = Sandbox::new().await;
    let junk = Bytes::from_static(b"junk");
    let wrong = [
        (In::Keepalive(pb::PushKeepalive {}), "FIELD_INVALID"),
        (
            In::Open(pb::PushOpen {
                state_name: "s".into(),
                ..open()
            }),
            "FIELD_INVALID",
        ),
        (
            In::Open(pb::PushOpen {
                writer_id: "me".into(),
                ..open()
            }),
            "FIELD_INVALID",
        ),
        (
            In::Open(pb::PushOpen {
                wanted_window: -1,
                ..open()
            }),
            "FIELD_INVALID",
        ),
        (
            In::Open(pb::PushOpen {
                lease_token: junk,
                ..open()
            }),
            "LEASE_TOKEN_MALFORMED",
        ),
    ];
    for (frame, expected) in wrong {
        let push = Push::begin(&mut server).await;
        push.send(frame.clone()).await;
        expect(push.ends_with().await, expected, &frame);
    }
    let small = pb::PushOpen {
        wanted_window: 7,
        ..open()
    };
    let (_push, opened) = Push::open(&mut server, small).await;
    assert_eq!(opened.window.unwrap().max_unacked_batches, 7);
}

#[tokio::test]
async fn wrong_later_frames_name_their_reason() {
    let mut server = Sandbox::new().await;
    let one = |sequence| {
        pb::UpdateBatches {
            batches: vec![batch(sequence, Vec::new())],
        }
        .into()
    };
    let wrong = [
        (In::Open(open()), "FIELD_INVALID"),
        (one(0), "FIELD_INVALID"),
        (one(5), "WRITER_EXPIRED"),
    ];
    for (frame, expected) in wrong {
        let (push, _) = Push::open(&mut server, open()).await;
        push.send(frame.clone()).await;
        expect(push.ends_with().await, expected, &frame);
    }
}
