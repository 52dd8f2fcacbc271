#pragma once

// Real actors under virtual time. One actor system runs under CAF's test coordinator; jobs wait on
// their executors and frames on their wires. Each step lets one thing happen that could happen now:
// an actor takes one message, an executor runs one job, or one frame arrives. Which one is drawn
// from the seed, so a seed is an interleaving and the same seed is the same run. When nothing can
// happen, the clock jumps to the next timer, job or frame.
//
// The draw favours some actors, executors and wires over others by up to 16 to 1, differently for
// each seed: so some seeds have a slow shard, others a slow head.

#include <caf/all.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <typeinfo>
#include <vector>

#include "actors/system.hpp"
#include "tests/support/cluster_nodes.hpp"
#include "tests/support/virtual_network.hpp"

namespace troupe::actors {

struct VirtualWorldOptions {
  uint64_t seed = 0;
  Duration max_job_time;    ///< a job takes up to this long, drawn from the seed
  Duration max_frame_time;  ///< a frame travels up to this long
  double duplicate = 0;     ///< the part of frames that arrives again
  bool reorder = false;     ///< frames of one wire overtake each other
};

class VirtualWorld final : public ClusterHost {
 public:
  /// More steps than this in one go are taken for a loop without end.
  static constexpr uint64_t kMaxSteps = 1'000'000;

  explicit VirtualWorld(const VirtualWorldOptions& options);
  ~VirtualWorld() override;  ///< REQUIRES: all actors are dead, or about to be

  // What the actors run on.
  caf::actor_system& system() override { return system_; }
  NodeId fresh_id() override;
  std::unique_ptr<Executor> make_executor() override;
  std::unique_ptr<transport::Port> open_port(transport::PortOptions options) override;
  /// The messages in the actor's mailbox are lost. Not to be called from within a step.
  void end(const caf::actor& actor) override;
  /// Ends those of this name which have a message to handle.
  void end_ready(const std::string& actor_name);

  [[nodiscard]] Instant now() const;
  VirtualNetwork& network() { return network_; }

  /// Steps until `done`, asked before each step. False if that did not come within `limit` of
  /// virtual time, or in kMaxSteps; the last steps are told then.
  [[nodiscard]] bool run_until(const std::function<bool()>& done, Duration limit);
  /// Lets so much virtual time pass, or so many steps, whichever ends first.
  void run_for(Duration span, uint64_t max_steps = kMaxSteps);
  /// From now on this actor handles nothing: a process that hangs.
  void stall(const caf::actor& actor) { stalled_.insert(actor.id()); }
  void unstall_all() { stalled_.clear(); }

  [[nodiscard]] uint64_t num_steps() const { return num_steps_; }
  /// Of everything that happened, in order, with its time.
  [[nodiscard]] uint64_t digest() const { return digest_; }
  /// The last steps, for people.
  [[nodiscard]] std::string last_steps() const;

 private:
  class HoldingExecutor;
  struct Job {
    std::function<void()> run;
    Instant ends;
  };
  using Jobs = std::deque<Job>;

  enum class Kind : uint8_t { kMessage, kJob, kFrame };
  /// One thing that can happen now.
  struct Choice {
    Kind kind = Kind::kMessage;
    uint64_t id = 0;   ///< of the actor; number of the executor or wire
    size_t index = 0;  ///< in the scheduler's queue
    uint64_t weight = 1;
  };
  /// One thing that happened.
  struct Step {
    Instant at;
    Choice choice;
    const char* actor = "";
    const std::type_info* message = nullptr;
  };

  uint64_t draw();
  Duration draw_up_to(Duration most);
  [[nodiscard]] uint64_t weight(Kind kind, uint64_t id) const;
  [[nodiscard]] std::vector<Choice> choices();
  /// False if nothing can happen now.
  bool step();
  void perform(const Choice& choice);
  void note(const Step& step);
  /// To the next timer, job or frame, or to `latest` if there is none before; then false.
  bool jump(Instant latest);

  VirtualWorldOptions options_;
  SystemConfig config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& coordinator_;
  VirtualNetwork network_;
  std::vector<std::shared_ptr<Jobs>> executors_;
  std::set<caf::actor_id> stalled_;
  uint64_t num_draws_ = 0;
  uint64_t num_ids_ = 0;
  uint64_t num_steps_ = 0;
  uint64_t digest_ = 0;
  std::deque<Step> last_steps_;
};

}  // namespace troupe::actors
