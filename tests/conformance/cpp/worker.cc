#include "worker.h"

#include <fstream>
#include <stdexcept>
#include <utility>

using duite::v1::Failure;
using duite::v1::LeaseStatus;

// C++ has no UUIDs of its own; Linux does.
static std::string uuid() {
  std::string uuid;
  std::getline(std::ifstream("/proc/sys/kernel/random/uuid"), uuid);
  return uuid;
}

static std::string name(LeaseStatus::Disposition disposition) {
  return name_of<LeaseStatus::Disposition>("DISPOSITION_", disposition);
}

Worker::Worker(const std::shared_ptr<grpc::Channel>& channel, std::string parent)
    : parent_(std::move(parent)), service_(duite::v1::WorkerService::NewStub(channel)) {}

std::string Worker::carry_out(const Step& step) {
  if (step.verb == "lease") return lease(step);
  if (step.verb == "renew") return renew(step);
  if (step.verb == "release") return release(step);
  if (step.verb == "directives") return directives(step);
  if (step.verb == "directive") return directive(step);
  throw std::invalid_argument("no such verb: " + step.verb);
}

std::string Worker::lease(const Step& step) {
  const std::string& worker = step.get("worker");
  duite::v1::LeaseTasksRequest request;
  request.set_parent(parent_);
  request.add_task_types(step.get("type"));
  request.set_max_tasks(1);
  *request.mutable_wait() = duration(std::stod(step.get("wait")));
  request.set_worker_id(worker);
  request.set_instance_uid(instance(worker));
  duite::v1::LeaseTasksResponse answer;
  grpc::ClientContext context;
  // A long poll: its deadline is later than its wait, unless the scenario wants it otherwise.
  limit(context, step, 30);
  check(service_->LeaseTasks(&context, request, &answer));
  if (answer.leases().empty()) return "none";
  const auto& lease = answer.leases(0);
  leases_[step.get("as")] = {lease.lease_token(), worker};
  return "task=" + id(lease.task().name()) + " attempt=" + std::to_string(lease.task().attempt()) +
         word("input", lease.task().input()) + words("label", lease.task().labels());
}

std::string Worker::renew(const Step& step) {
  Lease lease = step.has("token") ? Lease{step.get("token"), "w1"} : leases_.at(step.get("lease"));
  duite::v1::RenewLeasesRequest request;
  request.add_lease_tokens(lease.token);
  request.set_worker_id(lease.worker);
  request.set_instance_uid(instance(lease.worker));
  duite::v1::RenewLeasesResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(service_->RenewLeases(&context, request, &answer));
  return name(answer.statuses(0).disposition());
}

std::string Worker::release(const Step& step) {
  duite::v1::ReleaseLeasesRequest request;
  request.add_lease_tokens(token(step.get("lease")));
  duite::v1::ReleaseLeasesResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(service_->ReleaseLeases(&context, request, &answer));
  return "";
}

static void read_failure(const Step& step, Failure* failure) {
  failure->set_type(step.get("failure"));
  failure->set_message(step.text("message"));
  failure->set_stack_trace(step.text("stack"));
  failure->set_runtime(step.text("runtime"));
  failure->set_retryable(step.has("retryable"));
  Failure::Category category;
  if (Failure::Category_Parse("CATEGORY_" + step.text("category"), &category)) failure->set_category(category);
  if (step.has("cause")) {
    failure->mutable_cause()->set_type(step.get("cause"));
    failure->mutable_cause()->set_message(step.text("cause-message"));
  }
  if (step.has("meta")) {
    auto meta = split(step.get("meta"), ':', 2);
    (*failure->mutable_metadata())[meta.at(0)] = meta.at(1);
  }
  if (step.has("details")) read_payload(step.get("details"), failure->mutable_details());
  if (step.has("delay")) *failure->mutable_retry_delay() = duration(std::stod(step.get("delay")));
}

std::string Worker::finish(const Step& step, const Push* flushed) {
  duite::v1::FinishTasksRequest request;
  auto* outcome = request.add_outcomes();
  outcome->set_lease_token(token(step.get("lease")));
  if (step.has("failure")) {
    read_failure(step, outcome->mutable_failure());
  } else if (step.has("cancelled")) {
    outcome->set_cancelled(true);
  } else {
    read_payload(step.text("output"), outcome->mutable_output());
  }
  if (flushed != nullptr) *outcome->add_flushed() = flushed->mark();
  if (step.has("contribute")) {
    auto parts = split(step.get("contribute"), ':', 2);
    auto* contribution = outcome->add_contributions();
    contribution->set_state_name(parent_ + "/states/" + parts.at(0));
    read_update("add", parts.at(1), 0, contribution->add_updates());
  }
  duite::v1::FinishTasksResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(service_->FinishTasks(&context, request, &answer));
  // An outcome stands or falls by itself: its error is one as a call's own would be.
  const auto& result = answer.results(0);
  if (result.has_error()) throw Failed{result.error()};
  return "task=" + id(result.task().name());
}

std::string Worker::directives(const Step& step) {
  const std::string& worker = step.get("worker");
  duite::v1::WatchLeasesRequest request;
  request.set_parent(parent_);
  request.set_worker_id(worker);
  request.set_instance_uid(instance(worker));
  auto opened = std::make_unique<Directives>();
  limit(opened->context, step, 120);
  opened->reader = service_->WatchLeases(&opened->context, request);
  // The server listens from here on: without it the call may be on its way still.
  opened->reader->WaitForInitialMetadata();
  directives_[step.get("as")] = std::move(opened);
  return "";
}

std::string Worker::directive(const Step& step) {
  auto& reader = *directives_.at(step.get("as"))->reader;
  duite::v1::WatchLeasesResponse frame;
  while (reader.Read(&frame)) {
    const auto& directive = frame.directive();
    bool mine = directive.lease_token().empty() || directive.lease_token() == token(step.get("lease"));
    if (frame.has_directive() && mine) return name(directive.disposition()) + word("reason", directive.reason());
  }
  throw std::runtime_error("the stream of directives has ended");
}

void Worker::close(const std::string& directives) { directives_.erase(directives); }

Worker::Directives::~Directives() {
  context.TryCancel();
  // A call ends with Finish, which must come after the last Read.
  duite::v1::WatchLeasesResponse forgotten;
  while (reader->Read(&forgotten)) continue;
  reader->Finish();
}

const std::string& Worker::instance(const std::string& worker) {
  auto [known, is_new] = instances_.try_emplace(worker);
  if (is_new) known->second = uuid();
  return known->second;
}
