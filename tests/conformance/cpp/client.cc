#include "client.h"

#include <stdexcept>

using duite::v1::Task;

Client::Client(std::shared_ptr<grpc::Channel> channel, std::string parent)
    : parent_(std::move(parent)),
      task_service_(duite::v1::TaskService::NewStub(channel)),
      state_service_(duite::v1::StateService::NewStub(channel)),
      worker_(channel, parent_) {}

std::string Client::carry_out(const Step& step) {
  const std::string& verb = step.verb;
  if (verb == "submit") return submit(step);
  if (verb == "get") return get(step);
  if (verb == "list") return list(step);
  if (verb == "cancel") return cancel(step);
  if (verb == "await") return await(step);
  if (verb == "tasks") return open(step, tasks(step, step.get("ids")));
  if (verb == "watch") return open(step, states(step));
  if (verb == "until") return until(step);
  if (verb == "resume") return watches_.at(step.get("as"))->open();
  if (verb == "cut" || verb == "close") return cut(step);
  if (verb == "update") return update(step);
  if (verb == "get-state") return get_state(step);
  if (verb == "delete-state") return delete_state(step);
  if (verb == "push-open") return push_open(step);
  if (verb == "finish") {
    return worker_.finish(step, step.has("flushed") ? pushes_.at(step.get("flushed")).get() : nullptr);
  }
  if (verb.rfind("push", 0) != 0) return worker_.carry_out(step);

  Push& push = *pushes_.at(step.get("as"));
  if (verb == "push") return push.push(step), "";
  if (verb == "push-until" && step.has("rewind")) return push.until_rewind();
  if (verb == "push-until") return push.until_acked(step.number("acked"));
  if (verb == "push-resume") return "last=" + push.resume();
  if (verb == "push-close") return push.close();
  throw std::invalid_argument("no such verb: " + verb);
}

std::string Client::submit(const Step& step) {
  duite::v1::CreateTaskRequest request;
  request.set_parent(parent_);
  request.set_task_id(step.text("id"));
  request.set_request_id(step.text("request"));
  Task& task = *request.mutable_task();
  task.set_type(step.get("type"));
  if (step.has("input")) read_payload(step.get("input"), task.mutable_input());
  if (step.has("state")) task.set_state_name(state(step.get("state")));
  if (step.has("label")) {
    auto label = split(step.get("label"), ':', 2);
    (*task.mutable_labels())[label.at(0)] = label.at(1);
  }
  task.mutable_policy()->set_max_attempts(step.number("attempts"));  // 0: the default

  duite::v1::CreateTaskResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(task_service_->CreateTask(&context, request, &answer));

  const Task& made = answer.task();
  const std::string& called = step.get(step.has("id") ? "id" : "as");
  auto [known, is_new] = tasks_.try_emplace(called, made.name());
  bool other = !is_new && known->second != made.name();
  known->second = made.name();
  return "task=" + (other ? "other" : called) + " status=" + name_of("STATUS_", made.status()) +
         " attempt=" + std::to_string(made.attempt());
}

static std::string failure_words(const Task& task) {
  const auto& failure = task.failure();
  std::string all = " failure=" + failure.type() + " message=" + failure.message() +
                    " category=" + name_of("CATEGORY_", failure.category()) +
                    word("stack", failure.stack_trace()) + word("runtime", failure.runtime());
  if (failure.has_cause()) {
    all += " cause=" + failure.cause().type() + " cause-message=" + failure.cause().message();
  }
  all += words("meta", failure.metadata()) + word("details", failure.details());
  std::string attempts;
  for (const auto& attempt : task.attempts()) {
    attempts += (attempts.empty() ? "" : ",") + attempt.failure().message();
  }
  return all + " attempts=" + attempts;
}

std::string Client::get(const Step& step) {
  duite::v1::GetTaskRequest request;
  request.set_name(task(step.get("id")));
  duite::v1::GetTaskResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(task_service_->GetTask(&context, request, &answer));
  const Task& task = answer.task();
  return "task=" + step.get("id") + " status=" + name_of("STATUS_", task.status()) +
         " attempt=" + std::to_string(task.attempt()) + word("output", task.output()) +
         (task.has_failure() ? failure_words(task) : "");
}

std::string Client::list(const Step& step) {
  duite::v1::ListTasksRequest request;
  request.set_parent(parent_);
  request.set_page_size(step.number("size"));
  int count = 0;
  do {
    duite::v1::ListTasksResponse page;
    grpc::ClientContext context;  // a new one for each call
    limit(context, step, 30);
    check(task_service_->ListTasks(&context, request, &page));
    count += page.tasks_size();
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return "tasks=" + std::to_string(count);
}

std::string Client::cancel(const Step& step) {
  duite::v1::CancelTaskRequest request;
  request.set_name(task(step.get("id")));
  request.set_reason(step.text("reason"));
  duite::v1::CancelTaskResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(task_service_->CancelTask(&context, request, &answer));
  const Task& task = answer.task();
  bool ended = task.status() == Task::STATUS_SUCCEEDED || task.status() == Task::STATUS_FAILED ||
               task.status() == Task::STATUS_CANCELLED;
  return "status=" + name_of("STATUS_", task.status()) +
         (task.cancel_requested() && !ended ? " cancel_requested=yes" : "");
}

std::string Client::await(const Step& step) {
  auto watch = tasks(step, step.get("id"));
  watch->open();
  watch->until_end();
  return watch->view();
}

std::unique_ptr<AnyWatch> Client::tasks(const Step& step, const std::string& ids) {
  std::vector<std::string> names;
  for (const auto& id : split(ids, ',')) names.push_back(task(id));
  return std::make_unique<TaskWatch>(task_service_.get(), parent_, names, step);
}

std::unique_ptr<AnyWatch> Client::states(const Step& step) {
  std::vector<std::string> names;
  for (const auto& id : split(step.get("states"), ',')) names.push_back(state(id));
  return std::make_unique<StateWatch>(state_service_.get(), names, step);
}

std::string Client::open(const Step& step, std::unique_ptr<AnyWatch> watch) {
  std::string words = watch->open();
  watches_[step.get("as")] = std::move(watch);
  return words;
}

std::string Client::until(const Step& step) {
  AnyWatch& watch = *watches_.at(step.get("as"));
  for (const auto& [key, value] : step.words) {
    if (key == "as" || key == "deadline") continue;
    return key == "end" ? watch.until_end() : watch.until(key, value);
  }
  throw std::invalid_argument("until lacks what to wait for");
}

std::string Client::cut(const Step& step) {
  const std::string& name = step.get("as");
  if (watches_.count(name) > 0) {
    watches_[name]->cancel();
  } else if (pushes_.count(name) > 0) {
    pushes_[name]->cut();
  } else {
    worker_.close(name);
  }
  return "";
}

std::string Client::update(const Step& step) {
  duite::v1::UpdateStateRequest request;
  request.set_name(state(step.get("state")));
  read_updates(step, 0, request.mutable_updates());
  request.set_request_id(step.text("request"));
  request.set_expected_revision(step.number("revision"));
  duite::v1::UpdateStateResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(state_service_->UpdateState(&context, request, &answer));
  std::string words;
  for (const auto& key : answer.rejected()) words += word("rejected", key.key() + ":" + key.reason());
  return words;
}

std::string Client::get_state(const Step& step) {
  duite::v1::GetStateRequest request;
  request.set_name(state(step.get("state")));
  duite::v1::GetStateResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(state_service_->GetState(&context, request, &answer));
  View view;
  for (const auto& entry : answer.state().entries()) {
    view[step.get("state") + "/" + entry.key()] = to_text(entry.value());
  }
  return words(view);
}

std::string Client::delete_state(const Step& step) {
  duite::v1::DeleteStateRequest request;
  request.set_name(state(step.get("state")));
  duite::v1::DeleteStateResponse answer;
  grpc::ClientContext context;
  limit(context, step, 30);
  check(state_service_->DeleteState(&context, request, &answer));
  return "";
}

std::string Client::push_open(const Step& step) {
  duite::v1::PushOpen open;
  open.set_state_name(state(step.get("state")));
  open.set_writer_id(step.get("writer"));
  if (step.has("lease")) open.set_lease_token(worker_.token(step.get("lease")));
  auto push = std::make_unique<Push>(state_service_.get(), open, step);
  int64_t last = push->open();
  pushes_[step.get("as")] = std::move(push);
  return "last=" + std::to_string(last);
}

std::string Client::task(const std::string& id) const {
  auto known = tasks_.find(id);
  return known == tasks_.end() ? parent_ + "/tasks/" + id : known->second;
}
