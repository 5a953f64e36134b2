#include "push.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

using duite::v1::PushStateRequest;
using duite::v1::PushStateResponse;

Push::Push(duite::v1::StateService::Stub* stub, duite::v1::PushOpen open, Step step)
    : stub_(stub), open_(std::move(open)), step_(std::move(step)) {}

int64_t Push::open() {
  cut();
  context_ = std::make_unique<grpc::ClientContext>();
  limit(*context_, step_, 120);
  stream_ = stub_->PushState(context_.get());
  PushStateRequest first;
  *first.mutable_open() = open_;
  write(first);
  PushStateResponse frame = next();
  if (!frame.has_opened()) throw std::runtime_error("the first frame is not `opened`");
  window_ = frame.opened().window().max_unacked_batches();
  return frame.opened().last_sequence();
}

std::string Push::resume() {
  int64_t before = acked_, last = open();
  acknowledge(last);
  for (const auto& [sequence, batch] : unacknowledged_) send(batch);
  bool between = before <= last && last <= sent_;
  return between ? std::to_string(before) + ".." + std::to_string(sent_) : std::to_string(last);
}

void Push::push(const Step& step) {
  int64_t to = step.number("to");
  for (int64_t sequence = step.number("from"); sequence <= to; sequence++) {
    while (static_cast<int64_t>(unacknowledged_.size()) >= window_) take(next());
    duite::v1::UpdateBatch batch;
    batch.set_sequence(sequence);
    read_updates(step, sequence, batch.mutable_updates());
    batch.set_final(sequence == to && step.has("final"));
    send(batch);
    if (sequence > acked_) unacknowledged_[sequence] = batch;
  }
}

void Push::send(const duite::v1::UpdateBatch& batch) {
  sent_ = batch.sequence();
  PushStateRequest request;
  *request.mutable_batches()->add_batches() = batch;
  write(request);
}

void Push::write(const PushStateRequest& request) {
  if (!stream_) throw std::runtime_error("the push is not open");
  // False: the stream is broken. What came before may still be read, and then why.
  while (!stream_->Write(request)) take(next());
}

PushStateResponse Push::next() {
  if (!stream_) throw std::runtime_error("the push is not open");
  PushStateResponse frame;
  if (!stream_->Read(&frame)) {
    auto stream = std::move(stream_);
    check(stream->Finish());
    throw std::runtime_error("the push has ended, acknowledged is " + std::to_string(acked_));
  }
  return frame;
}

void Push::take(const PushStateResponse& frame) {
  if (frame.has_ack()) {
    acknowledge(frame.ack().acked_sequence());
    window_ = frame.ack().window().max_unacked_batches();
    for (const auto& key : frame.ack().rejected()) {
      rejected_ += word("rejected", std::to_string(key.sequence()) + ":" + key.key() + ":" + key.reason());
    }
  } else if (frame.has_rewind()) {
    rewind_ = frame.rewind().expected_sequence();
    unacknowledged_.erase(unacknowledged_.lower_bound(rewind_), unacknowledged_.end());
  }
  // Directives come with renewals too; a frame that this client does not know is skipped.
}

void Push::acknowledge(int64_t sequence) {
  acked_ = std::max(acked_, sequence);
  unacknowledged_.erase(unacknowledged_.begin(), unacknowledged_.upper_bound(acked_));
}

std::string Push::until_acked(int64_t wanted) {
  while (acked_ < wanted) take(next());
  return "acked=" + std::to_string(acked_) + take_rejected();
}

std::string Push::until_rewind() {
  while (rewind_ == 0) take(next());
  return "rewind=" + std::to_string(std::exchange(rewind_, 0)) + take_rejected();
}

std::string Push::take_rejected() { return std::exchange(rejected_, ""); }

std::string Push::close() {
  stream_->WritesDone();
  PushStateResponse frame;
  while (stream_->Read(&frame)) take(frame);
  auto stream = std::move(stream_);
  check(stream->Finish());
  return "acked=" + std::to_string(acked_);
}

void Push::cut() {
  if (!stream_) return;
  context_->TryCancel();
  // A call ends with Finish, which must come after the last Read.
  PushStateResponse forgotten;
  while (stream_->Read(&forgotten)) continue;
  stream_->Finish();
  stream_.reset();
}

duite::v1::WriterMark Push::mark() const {
  duite::v1::WriterMark mark;
  mark.set_state_name(open_.state_name());
  mark.set_writer_id(open_.writer_id());
  mark.set_sequence(sent_);
  return mark;
}
