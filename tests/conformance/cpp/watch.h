// Watches, as proto/duite/v1/watch.proto tells them. The view and the token outlive the call, so that
// another call goes on where one broke.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "duite/v1/state_service.grpc.pb.h"
#include "duite/v1/task_service.grpc.pb.h"
#include "text.h"

// What a client does with a watch, whatever it watches.
class AnyWatch {
 public:
  virtual ~AnyWatch() = default;
  // Opens the watch, or opens it again, and reads up to the complete view.
  virtual std::string open() = 0;
  // Reads on until the view is complete and has that.
  virtual std::string until(const std::string& name, const std::string& wanted) = 0;
  // Reads to the end, which must be OK.
  virtual std::string until_end() = 0;
  virtual void cancel() = 0;
  virtual std::string view() const = 0;
};

// What all watches share. The frames of all have fields of the same names.
template <class Frame>
class Watch : public AnyWatch {
 public:
  Watch(Step step, std::string token) : step_(std::move(step)), token_(std::move(token)) {}
  ~Watch() override { cancel(); }

  std::string open() override {
    cancel();
    synced_ = complete_ = false;
    context_ = std::make_unique<grpc::ClientContext>();
    limit(*context_, step_, 120);
    duite::v1::WatchOptions options;
    options.set_resume_token(token_);
    reader_ = call(context_.get(), options);
    while (!synced_) read();
    return "start=" + start_ + view();
  }

  std::string until(const std::string& name, const std::string& wanted) override {
    auto has = [&] {
      auto found = view_.find(name);
      return found == view_.end() ? wanted == "absent" : found->second == wanted;
    };
    while (!(complete_ && has())) read();
    return words_with_chain();
  }

  std::string until_end() override {
    Frame frame;
    while (reader_->Read(&frame)) take(frame);
    finish();
    return words_with_chain();
  }

  void cancel() override {
    if (!reader_) return;
    context_->TryCancel();
    // A call ends with Finish, which must come after the last Read.
    Frame forgotten;
    while (reader_->Read(&forgotten)) continue;
    reader_->Finish();
    reader_.reset();
  }

  std::string view() const override { return words(view_); }

 protected:
  using Reader = std::unique_ptr<grpc::ClientReader<Frame>>;
  virtual Reader call(grpc::ClientContext* context, const duite::v1::WatchOptions& options) = 0;
  // Takes a snapshot's part or a delta's changes into the view.
  using Chunk = std::decay_t<decltype(std::declval<Frame>().snapshot())>;
  using Delta = std::decay_t<decltype(std::declval<Frame>().delta())>;
  virtual void put(const Chunk& chunk) = 0;
  virtual void put(const Delta& delta) = 0;

  Step step_;
  View view_;

 private:
  void read() {
    if (!reader_) throw std::runtime_error("the watch is not open");
    Frame frame;
    if (reader_->Read(&frame)) return take(frame);
    finish();
    throw std::runtime_error("the watch has ended, its view is" + view());
  }

  void finish() {
    auto reader = std::move(reader_);
    check(reader->Finish());
  }

  void take(const Frame& frame) {
    switch (frame.frame_case()) {
      case Frame::kOpened:
        start_ = name_of("START_", frame.opened().start());
        if (frame.opened().start() == duite::v1::WatchOpened::START_SNAPSHOT) {
          reset();
        } else {
          chained_ &= revision_ == frame.opened().position().revision();
        }
        break;
      case Frame::kSnapshot:
        put(frame.snapshot());
        break;
      case Frame::kSynced:
        synced_ = true;
        reached(frame.synced().position());
        break;
      case Frame::kDelta:
        chained_ &= frame.delta().base_revision() == revision_;
        complete_ = false;
        put(frame.delta());
        if (!frame.delta().more()) reached(frame.delta().position());
        break;
      case Frame::kBookmark:
        reached(frame.bookmark().position());
        break;
      case Frame::kReset:
        reset();
        break;
      default:  // after `closing` the end comes; a frame that this client does not know is skipped
        break;
    }
  }

  void reset() {
    view_.clear();
    revision_ = -1;
    complete_ = false;
  }

  // The view is complete: this is where to resume.
  void reached(const duite::v1::Position& position) {
    chained_ &= position.revision() >= revision_;
    revision_ = position.revision();
    token_ = position.resume_token();
    complete_ = true;
  }

  std::string words_with_chain() const { return view() + (chained_ ? " chain=ok" : " chain=broken"); }

  std::string token_, start_;
  int64_t revision_ = -1;
  bool synced_ = false, complete_ = false, chained_ = true;
  std::unique_ptr<grpc::ClientContext> context_;  // outlives the call that uses it
  Reader reader_;
};

// A watch of states.
class StateWatch final : public Watch<duite::v1::WatchStateResponse> {
 public:
  StateWatch(duite::v1::StateService::Stub* stub, std::vector<std::string> names, const Step& step)
      : Watch(step, step.text("token")), stub_(stub), names_(std::move(names)) {}

 private:
  Reader call(grpc::ClientContext* context, const duite::v1::WatchOptions& options) override {
    duite::v1::WatchStateRequest request;
    for (const auto& name : names_) request.add_names(name);
    *request.mutable_options() = options;
    return stub_->WatchState(context, request);
  }

  void put(const Chunk& chunk) override {
    for (const auto& change : chunk.entries()) put(change);
  }
  void put(const Delta& delta) override {
    for (const auto& change : delta.changes()) put(change);
  }
  void put(const duite::v1::KeyChange& change) {
    std::string key = id(names_.at(change.target())) + "/" + change.key();
    if (change.has_deleted()) {
      view_.erase(key);
    } else {
      view_[key] = change.has_stub() ? "stub:" + change.stub().content_type() : to_text(change.value());
    }
  }

  duite::v1::StateService::Stub* stub_;
  std::vector<std::string> names_;
};

// A watch of tasks by their names, which ends when all of them have ended.
class TaskWatch final : public Watch<duite::v1::WatchTasksResponse> {
 public:
  TaskWatch(duite::v1::TaskService::Stub* stub, const std::string& parent, const std::vector<std::string>& names,
            const Step& step)
      : Watch(step, ""), stub_(stub) {
    request_.set_parent(parent);
    request_.set_until_terminal(true);
    for (const auto& name : names) request_.mutable_filter()->add_names(name);
  }

 private:
  Reader call(grpc::ClientContext* context, const duite::v1::WatchOptions& options) override {
    *request_.mutable_options() = options;
    return stub_->WatchTasks(context, request_);
  }

  void put(const Chunk& chunk) override {
    for (const auto& task : chunk.tasks()) put(task);
  }
  void put(const Delta& delta) override {
    for (const auto& task : delta.changed()) put(task);
    for (const auto& task : delta.removed()) view_.erase(id(task.name()));
  }
  void put(const duite::v1::Task& task) { view_[id(task.name())] = name_of("STATUS_", task.status()); }

  duite::v1::TaskService::Stub* stub_;
  duite::v1::WatchTasksRequest request_;
};
