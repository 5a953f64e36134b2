#include <grpcpp/grpcpp.h>

#include <iostream>

#include "duite/v1/state_service.grpc.pb.h"
#include "duite/v1/task_service.grpc.pb.h"

int main(int, char** argv) {
  auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const std::string parent = "namespaces/default", state = parent + "/states/run-1";

  duite::v1::CreateTaskRequest submit;
  submit.set_parent(parent);
  submit.set_request_id(argv[2]);  // a new UUID
  submit.mutable_task()->set_type("train");
  submit.mutable_task()->set_state_name(state);
  duite::v1::CreateTaskResponse answer;
  grpc::ClientContext call;  // a new one for each call
  call.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::Status status = duite::v1::TaskService::NewStub(channel)->CreateTask(&call, submit, &answer);
  if (!status.ok()) return std::cerr << status.error_message() << "\n", 1;
  std::cout << "submitted " << answer.task().name() << std::endl;

  duite::v1::WatchStateRequest watch;
  watch.add_names(state);
  duite::v1::WatchStateResponse frame;
  grpc::ClientContext watching;
  auto frames = duite::v1::StateService::NewStub(channel)->WatchState(&watching, watch);
  for (bool done = false; !done && frames->Read(&frame);) {  // a snapshot first, then what changes
    for (const auto& change : frame.has_delta() ? frame.delta().changes() : frame.snapshot().entries()) {
      std::cout << change.key() << " = " << change.value().ShortDebugString() << std::endl;
      done |= change.key() == "done";
    }
  }
  watching.TryCancel();  // a watch does not end by itself
}
