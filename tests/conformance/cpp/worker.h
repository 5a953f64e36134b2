// What runs tasks: a method for each verb.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "duite/v1/worker_service.grpc.pb.h"
#include "push.h"
#include "text.h"

class Worker {
 public:
  Worker(const std::shared_ptr<grpc::Channel>& channel, std::string parent);

  std::string carry_out(const Step& step);
  // `flushed`: the writer whose last batch the outcome waits for, or null.
  std::string finish(const Step& step, const Push* flushed);
  void close(const std::string& directives);
  const std::string& token(const std::string& lease) const { return leases_.at(lease).token; }

 private:
  struct Lease {
    std::string token, worker;
  };
  // A stream of directives, which is cancelled when it is no longer wanted.
  struct Directives {
    grpc::ClientContext context;  // outlives the call that uses it
    std::unique_ptr<grpc::ClientReader<duite::v1::WatchLeasesResponse>> reader;
    ~Directives();
  };

  std::string lease(const Step& step);
  std::string renew(const Step& step);
  std::string release(const Step& step);
  std::string directives(const Step& step);
  std::string directive(const Step& step);
  // Made anew at each start of the process, one for each worker.
  const std::string& instance(const std::string& worker);

  std::string parent_;
  std::unique_ptr<duite::v1::WorkerService::Stub> service_;
  std::map<std::string, Lease> leases_;
  std::map<std::string, std::string> instances_;
  std::map<std::string, std::unique_ptr<Directives>> directives_;
};
