#include "tests/support/virtual_world.hpp"

#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "actors/messages.hpp"
#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::actors {
namespace {

constexpr size_t kKeptSteps = 60;
constexpr Duration kMaxEchoTime = milliseconds(20);

// Streams of the seed's draws.
constexpr uint64_t kDraws = 0, kIds = 1, kWeights = 2;

uint64_t mixed(uint64_t digest, uint64_t value) { return random_bits(digest, value); }

/// The type of the message that an actor handles next.
const std::type_info* next_message(caf::scheduled_actor& actor) {
  const caf::mailbox_element* next = actor.mailbox().peek();
  if (next == nullptr || next->content().empty()) return nullptr;
  return next->content().type(0).second;  // null for CAF's own
}

std::string readable(const std::type_info* type) {
  if (type == nullptr) return "a message of CAF";
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(type->name(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : type->name();
}

}  // namespace

class VirtualWorld::HoldingExecutor final : public Executor {
 public:
  HoldingExecutor(VirtualWorld& world, std::shared_ptr<Jobs> jobs)
      : world_(world), jobs_(std::move(jobs)) {}
  ~HoldingExecutor() override { jobs_->waiting.clear(); }
  void submit(std::function<void()> job) override {
    std::deque<Job>& waiting = jobs_->waiting;
    const Instant begins = waiting.empty() ? world_.now() : waiting.back().ends;
    waiting.push_back({std::move(job), begins + world_.draw_up_to(world_.options_.max_job_time)});
  }
  void set_stalled(bool stalled) { jobs_->stalled = stalled; }

 private:
  VirtualWorld& world_;
  const std::shared_ptr<Jobs> jobs_;
};

VirtualWorld::VirtualWorld(const VirtualWorldOptions& options)
    : options_(options), control_(options.networked, now_), network_([this](bool echo) {
        if (echo) return now_ + draw_up_to(kMaxEchoTime);
        const Duration least = options_.min_frame_time;
        return now_ + least + draw_up_to({options_.max_frame_time.ns - least.ns});
      }) {}

ClusterHost::Process VirtualWorld::start_process(const std::string& node,
                                                 const caf::actor& scheduler) {
  return control_.start(node, scheduler, now_, [this] {
    while (step()) {
    }
  });
}

NodeId VirtualWorld::fresh_id() {
  const uint64_t bits = random_bits(options_.seed, num_ids_++, kIds);
  return NodeId{bits != 0 ? bits : 1};
}

std::unique_ptr<Executor> VirtualWorld::make_executor() {
  executors_.push_back(std::make_shared<Jobs>());
  return std::make_unique<HoldingExecutor>(*this, executors_.back());
}

std::unique_ptr<transport::Port> VirtualWorld::open_port(transport::PortOptions options) {
  return network_.open(std::move(options));
}

void VirtualWorld::stall(Executor& executor) {
  dynamic_cast<HoldingExecutor&>(executor).set_stalled(true);
}

void VirtualWorld::unstall_all() {
  stalled_.clear();
  for (const auto& jobs : executors_) jobs->stalled = false;
}

void VirtualWorld::end(const caf::actor& actor) {
  // Urgent, so that it is the next message.
  actor->enqueue(nullptr, caf::make_message_id(caf::message_priority::high),
                 caf::make_message(caf::exit_msg{actor.address(), caf::exit_reason::kill}),
                 nullptr);
  auto& coordinator = control_.processes()[control_.home_of(actor)].process->coordinator();
  if (coordinator.prioritize(actor)) coordinator.run_once();  // else it was dead already
}

void VirtualWorld::end_ready(const std::string& actor_name) {
  std::vector<caf::actor> ready;
  for (caf::resumable* job : control_.head().coordinator().jobs) {
    auto* actor = dynamic_cast<caf::scheduled_actor*>(job);
    if (actor != nullptr && actor->name() == actor_name) {
      ready.push_back(caf::actor_cast<caf::actor>(actor->address()));
    }
  }
  for (const caf::actor& actor : ready) end(actor);
}

bool VirtualWorld::run_until(const std::function<bool()>& done, Duration limit) {
  const Instant latest = now() + limit;
  for (uint64_t steps = 0; steps < kMaxSteps; ++steps) {
    if (done()) return true;
    if (step() || jump(latest)) continue;
    ADD_FAILURE() << "nothing came of it within " << to_seconds(limit)
                  << " s of virtual time; the last steps were\n"
                  << last_steps();
    return false;
  }
  ADD_FAILURE() << "it did not end in " << kMaxSteps << " steps; the last were\n" << last_steps();
  return false;
}

void VirtualWorld::run_for(Duration span, uint64_t max_steps,
                           const std::function<void()>& before_each_step) {
  const Instant latest = now() + span;
  const uint64_t last = num_steps_ + max_steps;
  while (num_steps_ < last) {
    if (before_each_step) before_each_step();
    if (!step() && !jump(latest)) return;
  }
  if (max_steps < kMaxSteps) return;
  ADD_FAILURE() << "no rest in " << kMaxSteps << " steps; the last were\n" << last_steps();
}

uint64_t VirtualWorld::draw() { return random_bits(options_.seed, num_draws_++, kDraws); }

Duration VirtualWorld::draw_up_to(Duration most) {
  if (most.ns == 0) return {};
  return {static_cast<int64_t>(draw() % static_cast<uint64_t>(most.ns + 1))};
}

uint64_t VirtualWorld::weight(Kind kind, uint64_t id) const {
  const uint64_t stream = kWeights + static_cast<uint64_t>(kind);
  return uint64_t{1} << (random_bits(options_.seed, id, stream) % 5);
}

std::vector<VirtualWorld::Choice> VirtualWorld::choices() {
  std::vector<Choice> choices;
  for (size_t p = 0; p < control_.processes().size(); ++p) {
    if (!control_.processes()[p].alive) continue;
    const auto& jobs = control_.processes()[p].process->coordinator().jobs;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const auto* actor = dynamic_cast<caf::scheduled_actor*>(jobs[i]);
      const uint64_t id = id_of(p, actor == nullptr ? 0 : actor->id());
      if (!stalled_.contains(id)) choices.push_back({Kind::kMessage, id, i});
    }
  }
  for (size_t e = 0; e < executors_.size(); ++e) {
    const auto& [waiting, stalled] = *executors_[e];
    if (!stalled && !waiting.empty() && waiting.front().ends <= now_) {
      choices.push_back({Kind::kJob, e});
    }
  }
  const auto& wires = network_.wires();
  for (size_t w = 0; w < wires.size(); ++w) {
    if (!wires[w].sent.empty() && wires[w].sent.front().arrives <= now_) {
      choices.push_back({Kind::kFrame, w});
    }
  }
  add_control_choices(choices);
  for (Choice& choice : choices) choice.weight = weight(choice.kind, choice.id);
  return choices;
}

void VirtualWorld::add_control_choices(std::vector<Choice>& choices) {
  std::vector<VirtualConnection>& connections = control_.connections();
  for (size_t c = 0; c < connections.size(); ++c) {
    for (size_t end = 0; end < 2; ++end) {
      if (!control_.alive(connections[c], end)) continue;
      if (connections[c].readable(end)) choices.push_back({Kind::kBytes, 2 * c + end});
      if (connections[c].broken(end)) choices.push_back({Kind::kReset, 2 * c + end});
    }
  }
}

bool VirtualWorld::step() {
  const std::vector<Choice> possible = choices();
  if (possible.empty()) return false;
  uint64_t total = 0;
  for (const Choice& choice : possible) total += choice.weight;
  uint64_t drawn = draw() % total;
  size_t chosen = 0;
  while (drawn >= possible[chosen].weight) drawn -= possible[chosen++].weight;
  ++num_steps_;
  perform(possible[chosen]);
  return true;
}

void VirtualWorld::perform(const Choice& choice) {
  Step step{.at = now_, .choice = choice};
  switch (choice.kind) {
    case Kind::kMessage: take_message(choice, step); break;
    case Kind::kJob: {
      note(step);
      std::deque<Job>& waiting = executors_[choice.id]->waiting;
      const std::function<void()> run = std::move(waiting.front().run);
      waiting.pop_front();
      run();
      break;
    }
    case Kind::kFrame: {
      const std::deque<VirtualNetwork::Wire::Sent>& sent = network_.wires()[choice.id].sent;
      if (options_.reorder) {
        const auto late =
            std::ranges::find_if(sent, [&](const auto& s) { return s.arrives > now_; });
        step.choice.index = draw() % static_cast<size_t>(late - sent.begin());
      }
      note(step);
      const double uniform = static_cast<double>(draw() >> 11) * 0x1.0p-53;
      network_.deliver(choice.id, step.choice.index, uniform < options_.duplicate);
      break;
    }
    case Kind::kBytes:
      note(step);
      control_.connections()[choice.id / 2].read(choice.id % 2);
      break;
    case Kind::kReset:
      note(step);
      control_.connections()[choice.id / 2].reset(choice.id % 2);
      break;
  }
  control_.run_networks();
}

void VirtualWorld::take_message(const Choice& choice, Step step) {
  ++num_messages_;
  auto& coordinator = control_.processes()[choice.id >> 32].process->coordinator();
  const auto job = coordinator.jobs.begin() + static_cast<std::ptrdiff_t>(choice.index);
  if (auto* actor = dynamic_cast<caf::scheduled_actor*>(*job)) {
    step.actor = actor->name();
    step.message = next_message(*actor);
  }
  note(step);
  std::rotate(coordinator.jobs.begin(), job, job + 1);
  coordinator.run_once();
}

void VirtualWorld::note(const Step& step) {
  digest_ = mixed(digest_, static_cast<uint64_t>(step.at.ns));
  digest_ = mixed(digest_, static_cast<uint64_t>(step.choice.kind));
  digest_ = mixed(digest_, step.choice.id);
  if (step.choice.kind == Kind::kFrame) digest_ = mixed(digest_, step.choice.index);
  if (step.message != nullptr) digest_ = mixed(digest_, step.message->hash_code());
  last_steps_.push_back(step);
  if (last_steps_.size() > kKeptSteps) last_steps_.pop_front();
}

bool VirtualWorld::jump(Instant latest) {
  std::optional<Instant> next;
  const auto consider = [&](Instant at) {
    if (at <= latest && (!next || at < *next)) next = at;
  };
  for (const ControlPlane::Process& process : control_.processes()) {
    const auto timer = process.alive ? process.process->next_timer() : std::nullopt;
    if (timer) consider(*timer);
  }
  for (const auto& jobs : executors_) {
    if (!jobs->stalled && !jobs->waiting.empty()) consider(jobs->waiting.front().ends);
  }
  for (const VirtualNetwork::Wire& wire : network_.wires()) {
    if (!wire.sent.empty()) consider(wire.sent.front().arrives);
  }
  if (!wakes_.empty()) consider(*wakes_.begin());
  now_ = std::max(now_, next.value_or(latest));
  wakes_.erase(wakes_.begin(), wakes_.upper_bound(now_));
  control_.advance_to(now_);
  return next.has_value();
}

std::string VirtualWorld::last_steps() const {
  std::string text;
  for (const Step& step : last_steps_) {
    const std::string id = std::to_string(step.choice.id & UINT32_MAX);
    text += "  " + std::to_string(to_seconds(step.at - Instant{})) + " s  ";
    switch (step.choice.kind) {
      case Kind::kMessage:
        text += control_.processes()[step.choice.id >> 32].node + " " + step.actor + " #" + id +
                " takes " + readable(step.message);
        break;
      case Kind::kJob: text += "executor " + id + " runs a job"; break;
      case Kind::kFrame: {
        const VirtualNetwork::Wire& wire = network_.wires()[step.choice.id];
        text += std::string(wire.echo ? "an echo" : "a frame") + " from node " +
                std::to_string(wire.from.value) + " arrives at node " +
                std::to_string(wire.to.value);
        break;
      }
      case Kind::kBytes: text += "bytes arrive at end " + id + " of the connections"; break;
      case Kind::kReset: text += "end " + id + " of the connections is reset"; break;
    }
    text += "\n";
  }
  return text;
}

}  // namespace troupe::actors
