// The writer of one state. What is not acknowledged is kept, so that the same writer can open again
// after a break and send what is missing: each batch counts once.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "duite/v1/state_service.grpc.pb.h"
#include "duite/v1/worker_service.pb.h"
#include "text.h"

class Push {
 public:
  Push(duite::v1::StateService::Stub* stub, duite::v1::PushOpen open, Step step);
  ~Push() { cut(); }

  // Opens the stream. Gives the last batch that is durable.
  int64_t open();
  // Opens again after a break and sends what is not durable.
  std::string resume();
  void push(const Step& step);
  std::string until_acked(int64_t wanted);
  std::string until_rewind();
  // Closes the writer's side and reads to the end, which must be OK.
  std::string close();
  // Breaks off, as a lost connection would. What has come and was not read is forgotten.
  void cut();
  // The last batch sent.
  duite::v1::WriterMark mark() const;

 private:
  void write(const duite::v1::PushStateRequest& request);
  void send(const duite::v1::UpdateBatch& batch);
  duite::v1::PushStateResponse next();
  void take(const duite::v1::PushStateResponse& frame);
  void acknowledge(int64_t sequence);
  std::string take_rejected();

  duite::v1::StateService::Stub* stub_;
  duite::v1::PushOpen open_;
  Step step_;
  std::unique_ptr<grpc::ClientContext> context_;  // outlives the call that uses it
  std::unique_ptr<grpc::ClientReaderWriter<duite::v1::PushStateRequest, duite::v1::PushStateResponse>> stream_;
  std::map<int64_t, duite::v1::UpdateBatch> unacknowledged_;
  std::string rejected_;
  int64_t window_ = 1, acked_ = 0, sent_ = 0, rewind_ = 0;
};
