//! Values above 64 KiB: written and read like all others, watched as stubs unless asked for.

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, key_change::Change, push_state_request::Frame as In,
    push_state_response::Frame as Out, value::Kind, watch_state_response::Frame,
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::sandbox::{STATE, Sandbox, WRITER, add, entries, integer, output, put, refusal, text};

/// Of a value of 1 MiB, what its batch takes.
const ENVELOPE: usize = 1 << 10;

fn picture(byte: u8, size: usize) -> Bytes {
    let blob = pb::Blob {
        content_type: "image/png".into(),
        data: vec![byte; size].into(),
        sha256: Bytes::new(),
    };
    let kind = Some(Kind::Blob(blob));
    pb::Value { kind }.encode_to_vec().into()
}

/// The largest there is.
fn largest(byte: u8) -> Bytes {
    let most = (1 << 20) - ENVELOPE;
    let envelope = picture(byte, most).len() - most;
    let value = picture(byte, most - envelope);
    assert_eq!(value.len(), most);
    value
}

fn get(keys: &[&str], inline_limit_bytes: i64) -> pb::GetStateRequest {
    pb::GetStateRequest {
        name: STATE.into(),
        keys: keys.iter().map(ToString::to_string).collect(),
        inline_limit_bytes,
        ..Default::default()
    }
}

fn check(stub: &pb::ValueStub, value: &Bytes) {
    assert_eq!(stub.content_type, "image/png");
    assert_eq!(usize::try_from(stub.size_bytes), Ok(value.len()));
    assert_eq!(stub.sha256[..], Sha256::digest(value)[..]);
}

#[tokio::test]
async fn a_large_value_is_read_whole_or_left_out_as_the_caller_asks() {
    let mut server = Sandbox::new().await;
    let image = largest(1);
    let updates = vec![put("image", image.clone()), put("n", integer(1))];
    // Together they are more than a batch may be, by little.
    for update in updates {
        assert_eq!(server.update(vec![update]).await.unwrap().rejected, []);
    }
    let whole = server.state().await.unwrap();
    let expected = [("image", image.clone()), ("n", integer(1))];
    assert_eq!(entries(&whole), expected);
    assert!(whole.entries.iter().all(|entry| entry.stub.is_none()));

    let request = get(&[], 64 << 10);
    let without = server.states.get_state(request).await.unwrap();
    let without = without.into_inner().state.unwrap();
    assert_eq!(
        entries(&without),
        [("image", Bytes::new()), ("n", integer(1))]
    );
    check(without.entries[0].stub.as_ref().unwrap(), &image);
    assert_eq!(without.entries[1].stub, None);
    // Exactly as large as the limit is within it.
    let request = get(&["image"], image.len() as i64);
    let within = server.states.get_state(request).await.unwrap();
    let within = within.into_inner().state.unwrap();
    assert_eq!(entries(&within), [("image", image)]);
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_is_refused_and_its_parts_are_not() {
    let mut server = Sandbox::new().await;
    for number in 0..4 {
        let image = put(&format!("k{number}"), largest(number));
        server.update(vec![image]).await.unwrap();
    }
    // Four of the largest and what is around them are just within 4 MiB.
    assert_eq!(server.state().await.unwrap().entries.len(), 4);
    server
        .update(vec![put("k4", picture(4, 70_000))])
        .await
        .unwrap();
    let all = server.states.get_state(get(&[], 0)).await;
    assert_eq!(refusal(all), "VALUE_TOO_LARGE");
    let some = server.states.get_state(get(&["k0", "k4"], 0)).await;
    let some = some.unwrap().into_inner().state.unwrap();
    assert_eq!(
        entries(&some),
        [("k0", largest(0)), ("k4", picture(4, 70_000))]
    );
    let stubs = server.states.get_state(get(&[], 1_000)).await;
    let stubs = stubs.unwrap().into_inner().state.unwrap();
    assert!(stubs.entries.iter().all(|entry| entry.stub.is_some()));
}

#[tokio::test]
async fn arithmetic_on_a_large_value_rejects_that_key() {
    let mut server = Sandbox::new().await;
    let long = text(&"7".repeat(100_000));
    server
        .update(vec![put("long", long.clone())])
        .await
        .unwrap();
    let updates = vec![add("long", 1), add("n", 1)];
    let answer = server.update(updates).await.unwrap();
    assert_eq!(answer.rejected.len(), 1);
    assert_eq!(answer.rejected[0].reason, "TYPE_MISMATCH");
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("long", long), ("n", integer(1))]);
}

#[tokio::test]
async fn large_values_are_pushed_beside_small_ones_and_resent_ones_count_once() {
    let mut server = Sandbox::new().await;
    let frame = |frame| pb::PushStateRequest { frame: Some(frame) };
    let open = || {
        frame(In::Open(pb::PushOpen {
            state_name: STATE.into(),
            writer_id: WRITER.into(),
            ..Default::default()
        }))
    };
    let batch = |sequence: i64| {
        let image = picture(sequence as u8, 300_000);
        let batch = pb::UpdateBatch {
            sequence,
            updates: vec![put("image", image), add("n", 1)],
            ..Default::default()
        };
        frame(In::from(pb::UpdateBatches {
            batches: vec![batch],
        }))
    };
    let first = vec![open(), batch(1), batch(2), batch(3)];
    let again = vec![open(), batch(2), batch(3), batch(4)];
    for frames in [first, again] {
        let answers = server.states.push_state(tokio_stream::iter(frames)).await;
        let mut answers = answers.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            if let Some(Out::Ack(ack)) = answer.frame {
                assert_eq!(ack.rejected, []);
            }
        }
    }
    let state = server.state().await.unwrap();
    let expected = [("image", picture(4, 300_000)), ("n", integer(4))];
    assert_eq!(entries(&state), expected);
}

#[tokio::test]
async fn a_task_that_ends_contributes_a_large_value() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let outcome = pb::TaskOutcome {
        contributions: vec![pb::Contribution {
            state_name: STATE.into(),
            updates: vec![put("image", picture(1, 500_000))],
        }],
        ..output(&lease, b"done")
    };
    server.finish(outcome).await;
    let merged = |state: &pb::SharedState| state.entries.len() == 1;
    let state = loop {
        match server.state().await {
            Ok(state) if merged(&state) => break state,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(entries(&state), [("image", picture(1, 500_000))]);
}

async fn change(frames: &mut tonic::Streaming<pb::WatchStateResponse>) -> Change {
    loop {
        let frame = frames.message().await.unwrap().unwrap().frame.unwrap();
        let mut changes = match frame {
            Frame::Snapshot(chunk) => chunk.entries,
            Frame::Delta(delta) => pb::StateDelta::decode(delta).unwrap().changes,
            _ => continue,
        };
        assert_eq!(changes.len(), 1);
        return changes.remove(0).change.unwrap();
    }
}

#[tokio::test]
async fn a_watch_brings_stubs_or_whole_values_up_to_the_largest() {
    let mut server = Sandbox::new().await;
    server.update(vec![put("image", largest(1))]).await.unwrap();
    let watch = |inline_limit_bytes| pb::WatchStateRequest {
        names: vec![STATE.into()],
        inline_limit_bytes,
        ..Default::default()
    };
    let stubs = server.states.watch_state(watch(0)).await;
    let mut stubs = stubs.unwrap().into_inner();
    // What is asked for above the limit is given up to it.
    let whole = server.states.watch_state(watch(1 << 30)).await;
    let mut whole = whole.unwrap().into_inner();
    for byte in 1..3 {
        match change(&mut stubs).await {
            Change::Stub(stub) => check(&stub, &largest(byte)),
            other => panic!("{other:?}"),
        }
        assert_eq!(change(&mut whole).await, Change::Value(largest(byte)));
        let next = put("image", largest(byte + 1));
        server.update(vec![next]).await.unwrap();
    }
}
