#include "gateway/chat_fields.hpp"

#include <algorithm>

#include "gateway/python_json.hpp"
#include "model/json.hpp"

namespace troupe::gateway {
namespace json = boost::json;
namespace {

/// Text of a message: a string, or a list of text parts, which are put together.
void read_content(FieldReader& reader, bool may_be_missing, std::string& content) {
  const auto* value = reader.find("content");
  if (value == nullptr) {
    if (!may_be_missing) reader.fail("content", "is missing.");
    return;
  }
  if (value->is_string()) {
    content = std::string_view(value->get_string());
    return;
  }
  if (!value->is_array()) {
    return reader.fail("content", "must be a string or a list of text parts, not " +
                                      model::describe(*value) + ".");
  }
  for (const auto& part : value->get_array()) {
    if (!part.is_object()) {
      return reader.fail("content", "must hold objects; " + model::describe(part) + " is none.");
    }
    const auto* type = part.get_object().if_contains("type");
    if (type == nullptr || !type->is_string() || type->get_string() != "text") {
      return reader.fail_unsupported(
          "content", "may hold parts of type \"text\" only, not " +
                         (type == nullptr ? "one without a type" : model::describe(*type)) + ".");
    }
    const auto* text = part.get_object().if_contains("text");
    if (text == nullptr || !text->is_string()) {
      return reader.fail("content", "has a text part without a string in `text`.");
    }
    content += std::string_view(text->get_string());
  }
}

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxToolNameBytes &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") ==
             std::string_view::npos;
}

void read_tool_name(FieldReader& reader, std::string& name) {
  reader.read("name", name);
  if (!is_tool_name(name)) {
    reader.fail("name", "must be 1 to " + std::to_string(kMaxToolNameBytes) +
                            " letters, digits, '_', '-' and '.', not " + model::quoted(name) + ".");
  }
}

/// Calls `read` with a reader for each object of a list, until an error.
template <class Read>
void read_list(FieldReader& reader, std::string_view name, size_t max_count, Read read) {
  const auto* value = reader.find(name);
  if (value == nullptr) return;
  if (!value->is_array()) {
    return reader.fail(name, "must be a list of objects, not " + model::describe(*value) + ".");
  }
  const auto& list = value->get_array();
  if (list.size() > max_count) {
    return reader.fail(name, "must have at most " + std::to_string(max_count) + " entries, not " +
                                 std::to_string(list.size()) + ".");
  }
  for (size_t i = 0; i < list.size() && !reader.error(); ++i) {
    const std::string place = std::string(name) + "[" + std::to_string(i) + "]";
    if (!list[i].is_object()) {
      return reader.fail(place, "must be an object, not " + model::describe(list[i]) + ".");
    }
    FieldReader entry(list[i].get_object(), reader, place + ".");
    read(entry);
  }
}

/// {"type":"function","function":{...}}, of tools and of calls.
const json::object* read_function(FieldReader& reader) {
  std::string type = "function";
  reader.read("type", type);
  if (type != "function") {
    reader.fail_unsupported("type",
                            model::quoted(type) + " is not supported yet; use \"function\".");
  }
  const auto* function = reader.object("function");
  if (function == nullptr) reader.fail("function", "is missing.");
  return function;
}

void read_tool_calls(FieldReader& message, std::vector<model::ToolCall>& calls) {
  read_list(message, "tool_calls", kMaxToolCalls, [&](FieldReader& entry) {
    model::ToolCall call;
    std::string id;
    entry.read("id", id);  // which result belongs to which call: the order tells the model
    const auto* function = read_function(entry);
    if (function == nullptr) return;
    FieldReader inner(*function, entry, "function.");
    read_tool_name(inner, call.name);
    const auto* arguments = inner.find("arguments");
    if (arguments != nullptr && arguments->is_object()) {
      call.arguments = python_json(*arguments);
    } else {
      call.arguments = "{}";
      inner.read("arguments", call.arguments);
    }
    calls.push_back(std::move(call));
  });
}

std::optional<model::ChatRole> chat_role(std::string_view name) {
  if (name == "system" || name == "developer") return model::ChatRole::kSystem;
  if (name == "user") return model::ChatRole::kUser;
  if (name == "assistant") return model::ChatRole::kAssistant;
  if (name == "tool") return model::ChatRole::kTool;
  return std::nullopt;
}

void read_message(FieldReader& reader, std::vector<model::ChatMessage>& messages) {
  model::ChatMessage message;
  std::string role_name;
  reader.read("role", role_name);
  const auto role = chat_role(role_name);
  if (role_name == "function") {
    reader.fail_unsupported("role", "\"function\" is not supported yet; use \"tool\".");
  } else if (!role) {
    reader.fail("role", "must be system, developer, user, assistant or tool, not " +
                            model::quoted(role_name) + ".");
  } else {
    message.role = *role;
  }
  read_content(reader, message.role == model::ChatRole::kAssistant, message.content);
  read_tool_calls(reader, message.tool_calls);
  if (!message.tool_calls.empty() && message.role != model::ChatRole::kAssistant) {
    reader.fail("tool_calls", "may be in messages of the assistant only.");
  }
  // DeepSeek's templates drop the reasoning of earlier answers; both names of it are taken.
  std::string dropped;
  reader.read("reasoning_content", dropped);
  reader.read("reasoning", dropped);
  reader.read("tool_call_id", dropped);
  messages.push_back(std::move(message));
}

void read_messages(FieldReader& reader, std::vector<model::ChatMessage>& messages) {
  const auto* value = reader.find("messages");
  if (value == nullptr) return reader.fail("messages", "is missing.");
  if (!value->is_array() || value->get_array().empty()) {
    return reader.fail("messages", "must be a list of at least one message.");
  }
  read_list(reader, "messages", value->get_array().size(),
            [&](FieldReader& entry) { read_message(entry, messages); });
}

void read_tools(FieldReader& reader, ChatRequest& request) {
  std::vector<model::ToolDefinition>& tools = request.tools;
  read_list(reader, "tools", kMaxTools, [&](FieldReader& entry) {
    const auto* function = read_function(entry);
    if (function == nullptr) return;
    FieldReader inner(*function, entry, "function.");
    model::ToolDefinition tool;
    read_tool_name(inner, tool.name);
    inner.read("description", tool.description);
    const auto* parameters = inner.object("parameters");
    tool.parameters = parameters == nullptr ? "{}" : python_json(*parameters);
    bool strict = false;
    inner.read("strict", strict);
    if (strict) request.strict_tools.insert(tool.name);
    const bool known = std::any_of(tools.begin(), tools.end(),
                                   [&](const auto& other) { return other.name == tool.name; });
    if (known) inner.fail("name", "is that of another tool too.");
    tools.push_back(std::move(tool));
  });
}

/// {"type":"function","function":{"name":...}}
void read_named_choice(FieldReader& reader, const json::object& choice, ChatRequest& request) {
  FieldReader inner(choice, reader, "tool_choice.");
  const auto* function = read_function(inner);
  if (function == nullptr) return;
  FieldReader named(*function, inner, "function.");
  read_tool_name(named, request.tool_choice.name);
  const bool known = std::any_of(request.tools.begin(), request.tools.end(), [&](const auto& tool) {
    return tool.name == request.tool_choice.name;
  });
  if (!known) {
    named.fail("name", "is none of the tools: " + model::quoted(request.tool_choice.name) + ".");
  }
  request.tool_choice.is_forced = true;
}

/// "none" takes the tools away; "auto" is the default.
void read_tool_choice(FieldReader& reader, ChatRequest& request) {
  const auto* choice = reader.find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object()) return read_named_choice(reader, choice->get_object(), request);
  const std::string_view name =
      choice->is_string() ? std::string_view(choice->get_string()) : std::string_view();
  if (name == "none") {
    request.tools.clear();
    request.strict_tools.clear();
  } else if (name == "required") {
    if (request.tools.empty()) reader.fail("tool_choice", "requires a call, but `tools` has none.");
    request.tool_choice.is_forced = true;
  } else if (name != "auto") {
    reader.fail("tool_choice",
                "must be \"none\", \"auto\", \"required\" or the name of a function, not " +
                    model::describe(*choice) + ".");
  }
}

}  // namespace

void read_chat_fields(FieldReader& reader, ChatRequest& request) {
  read_messages(reader, request.messages);
  read_tools(reader, request);
  read_tool_choice(reader, request);
  reader.read("parallel_tool_calls", request.parallel_tool_calls);
  reader.read("add_generation_prompt", request.add_generation_prompt);
  if (const auto* kwargs = reader.object("chat_template_kwargs")) {
    FieldReader inner(*kwargs, reader, "chat_template_kwargs.");
    inner.read("thinking", request.thinking);
    inner.read("enable_thinking", request.thinking);
  }
}

}  // namespace troupe::gateway
