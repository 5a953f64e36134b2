//! One `PushState` stream under load: frames out, acknowledgements in.

use std::sync::Arc;

use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    super::{Error, measure::Meter, payload::PushFrame},
    flow::Flow,
};
use crate::proto::v1::{PushStateResponse, push_state_response::Frame};

const CALL: &str = "PushState";

/// Pushes until the meter ends, then waits until all is acknowledged.
pub(in crate::cli::bench) async fn write(
    channel: Channel,
    flow: Arc<Flow>,
    meter: Meter,
) -> Result<(), Error> {
    // Called by hand because the generated client would encode each batch anew.
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|source| Error::Connect {
        address: CALL.to_owned(),
        source,
    })?;
    let path = PathAndQuery::from_static("/duite.v1.StateService/PushState");
    let codec = ProstCodec::<PushFrame, PushStateResponse>::default();
    let request = Request::new(flow.frames());
    let answers = client
        .streaming(request, path, codec)
        .await
        .map_err(Error::call(CALL))?;
    let mut answers = answers.into_inner();
    while !flow.is_done() {
        tokio::select! {
            answer = answers.message() => match answer.map_err(Error::call(CALL))? {
                Some(answer) => take(answer, &flow, &meter)?,
                // Stopped by someone else when nothing was out.
                None if flow.is_done() => return Ok(()),
                None => return Err(Error::unexpected(CALL, "the end of the stream, before the last acknowledgement")),
            },
            () = meter.ends(), if meter.running() => {}
        }
        if !meter.running() {
            flow.stop();
        }
    }
    Ok(())
}

fn take(answer: PushStateResponse, flow: &Flow, meter: &Meter) -> Result<(), Error> {
    match answer.frame {
        Some(Frame::Opened(opened)) => {
            if opened.last_sequence != 0 {
                let what = format!("a new writer is told it is at {}", opened.last_sequence);
                return Err(Error::unexpected(CALL, what));
            }
            flow.set_window(&opened.window.unwrap_or_default());
        }
        Some(Frame::Ack(ack)) => {
            if let Some(rejected) = ack.rejected.first() {
                let what = format!("key {:?} is rejected: {}", rejected.key, rejected.reason);
                return Err(Error::unexpected(CALL, what));
            }
            if let Some(window) = &ack.window {
                flow.set_window(window);
            }
            let sequence = u64::try_from(ack.acked_sequence).unwrap_or(u64::MAX);
            let Some(acked) = flow.acknowledge(sequence) else {
                let what = format!("batch {sequence} is acknowledged and was never sent");
                return Err(Error::unexpected(CALL, what));
            };
            meter.add(acked.batches);
            acked
                .frames_sent_at
                .into_iter()
                .for_each(|at| meter.took_since(at));
        }
        // On one connection nothing gets lost and no lease is held.
        Some(Frame::Rewind(rewind)) => {
            let what = format!("a rewind to batch {}", rewind.expected_sequence);
            return Err(Error::unexpected(CALL, what));
        }
        Some(Frame::Directive(directive)) => {
            let what = format!("a directive {:?}: {}", directive.kind(), directive.message);
            return Err(Error::unexpected(CALL, what));
        }
        None => {}
    }
    Ok(())
}
