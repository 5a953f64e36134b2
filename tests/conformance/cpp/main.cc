// Carries out a scenario and prints what it saw: client HOST:PORT NAMESPACE SCENARIO.

#include <fstream>
#include <iostream>

#include "client.h"

int main(int count, char** args) {
  if (count != 4) {
    std::cerr << "usage: client HOST:PORT NAMESPACE SCENARIO\n";
    return 1;
  }
  Client client(grpc::CreateChannel(args[1], grpc::InsecureChannelCredentials()),
                std::string("namespaces/") + args[2]);
  std::ifstream scenario(args[3]);
  int number = 0;
  for (std::string line; std::getline(scenario, line);) {
    if (line.empty() || line[0] == '#' || line[0] == '>') continue;
    std::string words;
    number++;
    try {
      words = client.carry_out(Step::parse(line));
      words = words.empty() || words[0] == ' ' ? "ok" + words : "ok " + words;
    } catch (const Failed& failed) {
      words = failed.words();
    } catch (const std::exception& bug) {
      std::cerr << "step " << number << ": " << bug.what() << "\n";
      return 1;
    }
    std::cout << number << " " << words << std::endl;
  }
}
