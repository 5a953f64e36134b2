// How the scenario writes steps, values, data, names and errors.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "duite/v1/common.pb.h"
#include "duite/v1/state_service.pb.h"

// One step: a verb and its words `key=value`, in their order.
struct Step {
  std::string verb;
  std::vector<std::pair<std::string, std::string>> words;

  static Step parse(const std::string& line);
  bool has(const std::string& key) const;
  // Throws where there is no such word.
  const std::string& get(const std::string& key) const;
  // Empty where there is no such word, which is what protobuf takes a text left out for.
  std::string text(const std::string& key) const;
  // 0 where there is no such word.
  int64_t number(const std::string& key) const;
};

// A call that failed, or an outcome that was refused.
struct Failed {
  google::rpc::Status status;

  // `CODE REASON [field=…]`
  std::string words() const;
};

// Throws Failed, with what the header `grpc-status-details-bin` says, unless the call succeeded.
void check(const grpc::Status& status);

// A context serves one call and cannot be used again. It may live where the call does.
void limit(grpc::ClientContext& context, const Step& step, double seconds);

std::vector<std::string> split(const std::string& text, char at, size_t most = SIZE_MAX);

duite::v1::Value value_from(const std::string& text, int64_t batch);
std::string to_text(const duite::v1::Value& value);

void read_update(const std::string& kind, const std::string& text, int64_t batch, duite::v1::KeyUpdate* update);
// The updates of a step, for `request.mutable_updates()`.
void read_updates(const Step& step, int64_t batch,
                  google::protobuf::RepeatedPtrField<duite::v1::KeyUpdate>* updates);

void read_payload(const std::string& text, duite::v1::Payload* payload);

// A word with a space before; nothing where it is empty.
std::string word(const std::string& key, const std::string& value);
std::string word(const std::string& key, const duite::v1::Payload& payload);

// A view: a word for each entry.
using View = std::map<std::string, std::string>;
std::string words(const View& view);
// A word for each entry, `key=NAME:VALUE`.
template <class Map>
std::string words(const std::string& key, const Map& map) {
  std::string all;
  for (const auto& [name, value] : View(map.begin(), map.end())) all += word(key, name + ":" + value);
  return all;
}

// The id at the end of a name.
std::string id(const std::string& name);

google::protobuf::Duration duration(double seconds);

// An enum's value without the prefix that names the enum, such as `QUEUED`.
template <class Enum>
std::string name_of(const std::string& prefix, Enum value) {
  const auto* known = google::protobuf::GetEnumDescriptor<Enum>()->FindValueByNumber(value);
  return known == nullptr ? std::to_string(value) : known->name().substr(prefix.size());
}
