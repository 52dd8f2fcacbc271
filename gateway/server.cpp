#include "gateway/server.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/log.hpp"
#include "gateway/connection.hpp"
#include "gateway/metrics.hpp"
#include "gateway/service.hpp"

namespace troupe::gateway {
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // when out of file descriptors
constexpr auto kInterruptTime = std::chrono::seconds(2);       // for last words to clients

std::string too_many_connections_response() {
  const std::string body = error_body(too_many_connections());
  return "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
         "Connection: close\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

class BeastServer final : public Server {
 public:
  BeastServer(ServerOptions options, actors::ClusterClient& client, const GatewayModel& model)
      : options_(std::move(options)),
        metrics_(model.id, options_.version),
        service_({options_.version, options_.request_timeout}, client, model, metrics_),
        long_work_(options_.num_io_threads),
        state_{options_, service_, metrics_, long_work_},
        io_(static_cast<int>(options_.num_io_threads)),
        acceptor_(asio::make_strand(io_)) {}

  ~BeastServer() override { stop(); }

  Result<void> listen();
  void run();

  [[nodiscard]] uint16_t port() const override { return port_; }
  void stop() override;

 private:
  asio::awaitable<void> accept_loop();
  void serve(tcp::socket socket);
  static void turn_away(tcp::socket& socket);
  bool wait_for_connections(std::chrono::nanoseconds limit);

  ServerOptions options_;
  Metrics metrics_;
  Service service_;
  asio::thread_pool long_work_;  ///< gives back to io_: idle before that goes
  ServerState state_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  uint16_t port_ = 0;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable ended_;
  std::set<std::shared_ptr<Connection>> connections_;
};

Result<void> BeastServer::listen() {
  const std::string place = options_.host + ":" + std::to_string(options_.port);
  error_code ec;
  const auto address = asio::ip::make_address(options_.host, ec);
  if (ec) {
    return Error{Code::kInvalidArgument, "cannot listen on " + place + ": \"" + options_.host +
                                             "\" is not an IP address; 127.0.0.1 serves this "
                                             "machine only, 0.0.0.0 every network"};
  }
  const tcp::endpoint endpoint(address, options_.port);
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  if (!ec) port_ = acceptor_.local_endpoint(ec).port();
  if (ec == boost::system::errc::address_in_use) {
    return Error{Code::kUnavailable, "cannot listen on " + place +
                                         ": another program uses this port; stop it or choose "
                                         "another port"};
  }
  if (ec) return Error{Code::kUnavailable, "cannot listen on " + place + ": " + ec.message()};
  return {};
}

void BeastServer::run() {
  asio::co_spawn(acceptor_.get_executor(), accept_loop(), asio::detached);
  for (uint32_t i = 0; i < options_.num_io_threads; ++i) {
    threads_.emplace_back([this] { io_.run(); });
  }
}

asio::awaitable<void> BeastServer::accept_loop() {
  asio::steady_timer pause(acceptor_.get_executor());
  while (acceptor_.is_open()) {
    error_code ec;
    tcp::socket socket = co_await acceptor_.async_accept(
        asio::make_strand(io_), asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) {
      serve(std::move(socket));
    } else if (acceptor_.is_open()) {
      log::warning("http_accept_failed", {{"reason", ec.message()}});
      pause.expires_after(kAcceptPause);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    }
  }
}

void BeastServer::serve(tcp::socket socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  auto executor = socket.get_executor();
  std::shared_ptr<Connection> connection;
  {
    const std::lock_guard lock(mutex_);
    if (connections_.size() >= options_.max_connections) return turn_away(socket);
    connection = std::make_shared<Connection>(std::move(socket), state_);
    connections_.insert(connection);
  }
  asio::co_spawn(
      executor, [connection] { return connection->run(); },
      [this, connection](const std::exception_ptr& thrown) {
        if (thrown) {
          try {
            std::rethrow_exception(thrown);
          } catch (const std::exception& e) {
            log::error("http_connection_failed", {{"reason", e.what()}});
          }
        }
        const std::lock_guard lock(mutex_);
        connections_.erase(connection);
        ended_.notify_all();
      });
}

void BeastServer::turn_away(tcp::socket& socket) {
  error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(too_many_connections_response()), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
}

bool BeastServer::wait_for_connections(std::chrono::nanoseconds limit) {
  std::unique_lock lock(mutex_);
  return ended_.wait_for(lock, limit, [this] { return connections_.empty(); });
}

void BeastServer::stop() {
  if (threads_.empty()) return;
  state_.draining = true;
  asio::post(acceptor_.get_executor(), [this] {
    error_code ignored;
    acceptor_.close(ignored);
  });
  const auto for_each = [this](void (Connection::*act)()) {
    const std::lock_guard lock(mutex_);
    for (const auto& connection : connections_) ((*connection).*act)();
  };
  for_each(&Connection::drain);
  if (!wait_for_connections(std::chrono::nanoseconds(options_.drain_timeout.ns))) {
    for_each(&Connection::interrupt);
    if (!wait_for_connections(kInterruptTime)) {
      for_each(&Connection::abort);
      wait_for_connections(kInterruptTime);
    }
  }
  io_.stop();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
  long_work_.join();
}

}  // namespace

Result<std::unique_ptr<Server>> start(ServerOptions options, actors::ClusterClient& client,
                                      const GatewayModel& model) {
  if (options.num_io_threads < 1 || options.num_io_threads > 64) {
    return Error{Code::kInvalidArgument, "num_io_threads must be between 1 and 64"};
  }
  auto server = std::make_unique<BeastServer>(std::move(options), client, model);
  TRY(server->listen());
  server->run();
  log::info("http_listening", {{"port", server->port()}});
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace troupe::gateway
