#pragma once

// One process under virtual time: an actor system under CAF's test coordinator, on request with
// CAF's network protocol over CAF's test multiplexer, whose wires are buffers.

#include <array>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <caf/io/network/test_multiplexer.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <optional>

#include "actors/system.hpp"
#include "base/time.hpp"

namespace troupe::actors {

class VirtualProcess {
 public:
  /// @param now the virtual time of the others, later than 0: 0 means "no time" to CAF.
  VirtualProcess(bool networked, Instant now);
  /// REQUIRES: all its actors were ended, or will be by a message they have.
  ~VirtualProcess();
  VirtualProcess(const VirtualProcess&) = delete;
  VirtualProcess& operator=(const VirtualProcess&) = delete;

  caf::actor_system& system() { return system_; }
  caf::scheduler::test_coordinator& coordinator() { return coordinator_; }
  /// REQUIRES: networked.
  caf::io::network::test_multiplexer& network();

  [[nodiscard]] Instant now() const;
  [[nodiscard]] std::optional<Instant> next_timer() const;
  void advance_to(Instant now);

  /// Lets CAF's network thread do what it has to do, but for reading.
  void run_network();

 private:
  SystemConfig config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& coordinator_;
  caf::io::network::test_multiplexer* network_ = nullptr;
};

/// A control connection. Its ends are those of the server, 0, and of the client, 1.
class VirtualConnection {
 public:
  struct End {
    VirtualProcess* process = nullptr;
    caf::io::connection_handle handle;
  };

  static constexpr const char* kHost = "head";

  /// Prepares a connection to the port that the server published: the client's connect is next.
  VirtualConnection(VirtualProcess& server, VirtualProcess& client, uint16_t port, int64_t number);

  /// Enough bytes have arrived at this end to be taken in.
  [[nodiscard]] bool readable(size_t end);
  void read(size_t end);
  /// This end is open, and can hear that the other is not.
  [[nodiscard]] bool broken(size_t end);
  void reset(size_t end);

  std::array<End, 2> ends;
  bool cut = false;  ///< nothing passes, silently
  bool client_died = false;

 private:
  enum class State : uint8_t { kNew, kOpen, kClosed };
  [[nodiscard]] State state(size_t end);
};

}  // namespace troupe::actors
