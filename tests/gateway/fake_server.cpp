// Serves the HTTP interface over a fake cluster, for trying clients against it:
//   gateway_fake_server [PORT [MILLISECONDS_PER_TOKEN]]

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "gateway/server.hpp"
#include "tests/gateway/fake_client.hpp"
#include "tests/gateway/test_model.hpp"

int main(int argc, char** argv) {
  using namespace troupe;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  const gateway::TestModel model;
  gateway::FakeClient client(gateway::babbles(model.tokenizer),
                             milliseconds(argc > 2 ? std::atoi(argv[2]) : 0));
  gateway::ServerOptions options;
  options.version = "fake";
  options.port = static_cast<uint16_t>(argc > 1 ? std::atoi(argv[1]) : 0);
  auto server = gateway::start(options, client, model.gateway);
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.error().message.c_str());
    return 1;
  }
  std::printf("http://127.0.0.1:%u\n", unsigned{(*server)->port()});
  std::fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  (*server)->stop();
  return 0;
}
