#pragma once

// Real actors under virtual time. Jobs wait on their executors and frames on their wires. Each step
// lets one thing happen that could happen now: an actor takes one message, an executor runs one
// job, or one frame arrives. Which one is drawn from the seed, so a seed is an interleaving and the
// same seed is the same run. When nothing can happen, the clock jumps to the next timer, job or
// frame.
//
// The draw favours some actors, executors and wires over others by up to 16 to 1, differently for
// each seed: so some seeds have a slow shard, others a slow head.
//
// All actors share one process; or, networked, each node has one of its own, which is joined to the
// head's by a control connection with CAF's network protocol and its heartbeats. Then the arrival
// of bytes at one end of such a connection is a step, too.

#include <caf/all.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <typeinfo>
#include <vector>

#include "tests/support/cluster_nodes.hpp"
#include "tests/support/control_plane.hpp"
#include "tests/support/virtual_network.hpp"

namespace troupe::actors {

struct VirtualWorldOptions {
  uint64_t seed = 0;
  Duration max_job_time;    ///< a job takes up to this long, drawn from the seed
  Duration min_frame_time;  ///< a frame travels at least this long
  Duration max_frame_time;  ///< and at most this long
  double duplicate = 0;     ///< the part of frames that arrives again
  bool reorder = false;     ///< frames of one wire overtake each other
  bool networked = false;   ///< a process for each node
};

class VirtualWorld final : public ClusterHost {
 public:
  /// More steps than this in one go are taken for a loop without end.
  static constexpr uint64_t kMaxSteps = 1'000'000;

  explicit VirtualWorld(const VirtualWorldOptions& options);

  // What the actors run on.
  caf::actor_system& head() override { return control_.head().system(); }
  Process start_process(const std::string& node, const caf::actor& scheduler) override;
  void process_dies(const std::string& node) override { control_.kill(node); }
  NodeId fresh_id() override;
  std::unique_ptr<Executor> make_executor() override;
  std::unique_ptr<transport::Port> open_port(transport::PortOptions options) override;
  /// The messages in the actor's mailbox are lost. Not to be called from within a step.
  void end(const caf::actor& actor) override;
  /// Ends those of this name in the head's process which have a message to handle.
  void end_ready(const std::string& actor_name);

  [[nodiscard]] Instant now() const { return now_; }
  VirtualNetwork& network() { return network_; }
  ControlPlane& control() { return control_; }

  /// Steps until `done`, asked before each step. False if that did not come within `limit` of
  /// virtual time, or in kMaxSteps; the last steps are told then.
  [[nodiscard]] bool run_until(const std::function<bool()>& done, Duration limit);
  /// Lets so much virtual time pass, or so many steps, whichever ends first.
  void run_for(Duration span, uint64_t max_steps = kMaxSteps,
               const std::function<void()>& before_each_step = {});
  /// Lets the clock stop there, too.
  void wake_at(Instant at) { wakes_.insert(at); }
  /// From now on this actor handles nothing: a process that hangs.
  void stall(const caf::actor& actor) {
    stalled_.insert(id_of(control_.home_of(actor), actor.id()));
  }
  /// From now on this executor runs nothing: a job without end.
  void stall(Executor& executor);
  void unstall_all();

  [[nodiscard]] uint64_t num_steps() const { return num_steps_; }
  /// Of them, those in which an actor took a message.
  [[nodiscard]] uint64_t num_messages() const { return num_messages_; }
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
  struct Jobs {
    std::deque<Job> waiting;
    bool stalled = false;
  };

  enum class Kind : uint8_t { kMessage, kJob, kFrame, kBytes, kReset };
  /// One thing that can happen now.
  struct Choice {
    Kind kind = Kind::kMessage;
    uint64_t id = 0;   ///< of the actor; number of the executor, wire or end of a connection
    size_t index = 0;  ///< in the queue of the actor's process
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
  void add_control_choices(std::vector<Choice>& choices);
  /// False if nothing can happen now.
  bool step();
  void perform(const Choice& choice);
  void take_message(const Choice& choice, Step step);
  void note(const Step& step);
  /// To the next timer, job or frame, or to `latest` if there is none before; then false.
  bool jump(Instant latest);

  /// Ids of actors are unique in their process; these are in the world.
  [[nodiscard]] static uint64_t id_of(size_t process, caf::actor_id actor) {
    return uint64_t{process} << 32 | actor;
  }

  VirtualWorldOptions options_;
  Instant now_{seconds(3600).ns};
  ControlPlane control_;
  VirtualNetwork network_;
  std::vector<std::shared_ptr<Jobs>> executors_;
  std::set<uint64_t> stalled_;
  std::set<Instant> wakes_;
  uint64_t num_draws_ = 0;
  uint64_t num_ids_ = 0;
  uint64_t num_steps_ = 0;
  uint64_t num_messages_ = 0;
  uint64_t digest_ = 0;
  std::deque<Step> last_steps_;
};

}  // namespace troupe::actors
