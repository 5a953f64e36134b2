#include "text.h"

#include <google/rpc/error_details.pb.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <sstream>
#include <stdexcept>

using duite::v1::Value;

Step Step::parse(const std::string& line) {
  auto parts = split(line, ' ');
  Step step{parts.front(), {}};
  for (size_t at = 1; at < parts.size(); at++) {
    auto word = split(parts[at], '=', 2);
    step.words.emplace_back(word.at(0), word.at(1));
  }
  return step;
}

bool Step::has(const std::string& key) const {
  return std::any_of(words.begin(), words.end(), [&](const auto& word) { return word.first == key; });
}

const std::string& Step::get(const std::string& key) const {
  for (const auto& [name, value] : words) {
    if (name == key) return value;
  }
  throw std::invalid_argument(verb + " lacks " + key);
}

std::string Step::text(const std::string& key) const { return has(key) ? get(key) : ""; }

int64_t Step::number(const std::string& key) const { return has(key) ? std::stoll(get(key)) : 0; }

std::string Failed::words() const {
  static const char* const codes[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
      "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
      "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
  std::string reason = "-", field;
  for (const auto& detail : status.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info) && info.domain() == "duite") reason = info.reason();
    if (detail.UnpackTo(&bad) && bad.field_violations_size() > 0) field = bad.field_violations(0).field();
  }
  return codes[status.code()] + (" " + reason) + word("field", field);
}

void check(const grpc::Status& status) {
  if (status.ok()) return;
  Failed failed;
  // A client's own errors, such as a deadline that has passed, have no details.
  if (!failed.status.ParseFromString(status.error_details())) throw std::runtime_error("malformed details");
  failed.status.set_code(status.error_code());
  throw failed;
}

void limit(grpc::ClientContext& context, const Step& step, double seconds) {
  if (step.has("deadline")) seconds = std::stod(step.get("deadline"));
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(std::llround(seconds * 1000)));
}

std::vector<std::string> split(const std::string& text, char at, size_t most) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (parts.size() + 1 < most) {
    size_t end = text.find(at, begin);
    if (end == std::string::npos) break;
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  parts.push_back(text.substr(begin));
  return parts;
}

// The pattern that `@SIZE` stands for.
static std::string pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t at = 0; at < size; at++) bytes[at] = static_cast<char>(at % 251);
  return bytes;
}

static std::string sum(const std::string& bytes) {
  auto add = [](int64_t sum, char byte) { return sum + static_cast<unsigned char>(byte); };
  return std::to_string(bytes.size()) + "," +
         std::to_string(std::accumulate(bytes.begin(), bytes.end(), int64_t{0}, add));
}

Value value_from(const std::string& text, int64_t batch) {
  auto parts = split(text, ':', 2);
  const std::string &kind = parts.at(0), &rest = parts.at(1);
  auto items = rest.empty() ? std::vector<std::string>{} : split(rest, ',');
  Value value;
  if (kind == "null") {
    value.set_null(true);
  } else if (kind == "bool") {
    value.set_boolean(rest == "true");
  } else if (kind == "int") {
    value.set_integer(rest == "#" ? batch : std::stoll(rest));
  } else if (kind == "number") {
    value.set_number(std::stod(rest));
  } else if (kind == "text") {
    value.set_text(rest);
  } else if (kind == "time") {
    value.mutable_time()->set_seconds(std::stoll(rest));
  } else if (kind == "list") {
    value.mutable_list();  // also where it is empty
    for (const auto& item : items) value.mutable_list()->add_items()->set_integer(std::stoll(item));
  } else if (kind == "map") {
    value.mutable_map();
    for (size_t at = 0; at + 1 < items.size(); at += 2) {
      auto* entry = value.mutable_map()->add_entries();
      entry->set_key(items[at]);
      entry->mutable_value()->set_integer(std::stoll(items[at + 1]));
    }
  } else if (kind == "blob") {
    value.mutable_blob()->set_content_type(items.at(0));
    value.mutable_blob()->set_data(pattern(std::stoul(items.at(1))));
  } else {
    throw std::invalid_argument("no kind of value: " + kind);
  }
  return value;
}

std::string to_text(const Value& value) {
  std::ostringstream out;
  switch (value.kind_case()) {
    case Value::kBoolean:
      return value.boolean() ? "bool:true" : "bool:false";
    case Value::kInteger:
      return "int:" + std::to_string(value.integer());
    case Value::kNumber:
      out.precision(3);
      out << "number:" << std::fixed << value.number();
      return out.str();
    case Value::kText:
      return "text:" + value.text();
    case Value::kTime:
      return "time:" + std::to_string(value.time().seconds());
    case Value::kBlob:
      return "blob:" + value.blob().content_type() + "," + sum(value.blob().data());
    case Value::kList:
      for (const auto& item : value.list().items()) out << (out.tellp() ? "," : "") << item.integer();
      return "list:" + out.str();
    case Value::kMap:
      for (const auto& entry : value.map().entries()) {
        out << (out.tellp() ? "," : "") << entry.key() << "," << entry.value().integer();
      }
      return "map:" + out.str();
    default:  // also a kind that this client does not know
      return "null:";
  }
}

void read_update(const std::string& kind, const std::string& text, int64_t batch, duite::v1::KeyUpdate* update) {
  auto parts = split(text, ':', 2);
  update->set_key(parts.at(0));
  if (kind == "delete") {
    update->set_delete_(true);  // a word of C++ gets an underscore
  } else if (kind == "put") {
    *update->mutable_put() = value_from(parts.at(1), batch);
  } else if (kind == "add") {
    *update->mutable_add() = value_from(parts.at(1), batch);
  } else if (kind == "max") {
    *update->mutable_max() = value_from(parts.at(1), batch);
  } else {
    *update->mutable_min() = value_from(parts.at(1), batch);
  }
}

void read_updates(const Step& step, int64_t batch,
                  google::protobuf::RepeatedPtrField<duite::v1::KeyUpdate>* updates) {
  static const std::string kinds[] = {"put", "add", "max", "min", "delete"};
  for (const auto& [key, value] : step.words) {
    if (std::find(std::begin(kinds), std::end(kinds), key) != std::end(kinds)) {
      read_update(key, value, batch, updates->Add());
    }
  }
}

void read_payload(const std::string& text, duite::v1::Payload* payload) {
  payload->set_content_type("text/plain");
  payload->set_data(text.rfind('@', 0) == 0 ? pattern(std::stoul(text.substr(1))) : text);
}

std::string word(const std::string& key, const std::string& value) {
  return value.empty() ? "" : " " + key + "=" + value;
}

std::string word(const std::string& key, const duite::v1::Payload& payload) {
  return word(key, payload.data().size() <= 100 ? payload.data() : "@" + sum(payload.data()));
}

std::string words(const View& view) {
  std::string all;
  for (const auto& [name, value] : view) all += " " + name + "=" + value;
  return all;
}

std::string id(const std::string& name) { return name.substr(name.rfind('/') + 1); }

google::protobuf::Duration duration(double seconds) {
  google::protobuf::Duration duration;
  duration.set_seconds(static_cast<int64_t>(seconds));
  duration.set_nanos(static_cast<int32_t>(std::llround((seconds - std::floor(seconds)) * 1e9)));
  return duration;
}
