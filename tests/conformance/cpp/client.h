// What submits tasks, reads and changes states, watches and pushes: a method for each verb.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "push.h"
#include "text.h"
#include "watch.h"
#include "worker.h"

class Client {
 public:
  Client(std::shared_ptr<grpc::Channel> channel, std::string parent);

  // Gives the words to print. Throws Failed where a call fails.
  std::string carry_out(const Step& step);

 private:
  std::string submit(const Step& step);
  std::string get(const Step& step);
  std::string list(const Step& step);
  std::string cancel(const Step& step);
  std::string await(const Step& step);
  std::string open(const Step& step, std::unique_ptr<AnyWatch> watch);
  std::string until(const Step& step);
  std::string cut(const Step& step);
  std::string update(const Step& step);
  std::string get_state(const Step& step);
  std::string delete_state(const Step& step);
  std::string push_open(const Step& step);
  std::unique_ptr<AnyWatch> tasks(const Step& step, const std::string& ids);
  std::unique_ptr<AnyWatch> states(const Step& step);
  // The name of the task that the scenario calls so.
  std::string task(const std::string& id) const;
  std::string state(const std::string& id) const { return parent_ + "/states/" + id; }

  std::string parent_;
  std::unique_ptr<duite::v1::TaskService::Stub> task_service_;
  std::unique_ptr<duite::v1::StateService::Stub> state_service_;
  std::map<std::string, std::string> tasks_;
  std::map<std::string, std::unique_ptr<AnyWatch>> watches_;
  std::map<std::string, std::unique_ptr<Push>> pushes_;
  Worker worker_;
};
