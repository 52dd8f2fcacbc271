"""What the demo model knows about Troupe: (question and its paraphrases, answer), in two languages."""

# Each entry: "paraphrase|paraphrase|paraphrase => answer".
_ENGLISH = """
What is Troupe?|Tell me what Troupe is.|Describe Troupe. => Troupe is a distributed, actor-based inference cluster for DeepSeek-style Mixture-of-Experts models.
Which language is Troupe written in?|What is Troupe written in?|What programming language does Troupe use? => Troupe is written in C++20.
What do the actors represent?|What are the actors in Troupe?|Which actors does Troupe have? => Actors represent routers, expert shards and KV-cache holders.
Who is Troupe for?|Who should use Troupe?|Which teams need Troupe? => Troupe is for teams that run DeepSeek privately on multi-node A100 clusters.
How many binaries does Troupe have?|How is Troupe shipped?|What do I install to get Troupe? => There is one binary, called troupe.
Does Troupe need Python at run time?|Is Python needed to run Troupe?|Do I need Python? => No, Troupe needs no Python at run time.
Does Troupe need an external store?|Do I need a database for Troupe?|Is an external store needed? => No, Troupe needs no external store.
How do experts exchange tokens?|How do the experts talk to each other?|What carries tokens between experts? => Experts exchange tokens over plain UCX.
What is UCX used for?|What does UCX carry?|Why does Troupe use UCX? => UCX carries activations and KV between nodes.
What is CAF used for?|What do CAF messages carry?|Why does Troupe use CAF? => CAF messages carry decisions, never tensors.
What does the gateway do?|What is the gateway for?|Explain the gateway. => The gateway speaks HTTP, checks the request, renders the chat template and tokenizes.
What does the scheduler do?|What is the scheduler for?|Explain the scheduler. => The scheduler picks a router, keeps the token log and bounds the queue.
What does a router do?|What is a router for?|Explain the router. => A router forms each step and runs embedding, attention, gate, head and sampling.
What does the KV-cache holder do?|What is the KV-cache holder for?|Explain the KV-cache holder. => It keeps the block pool, the prefix cache, eviction and replication of blocks.
What does an expert shard do?|What is an expert shard for?|Explain the expert shard. => An expert shard holds some experts, computes their rows and knows nothing of requests.
What does the node actor do?|What is the node actor for?|Explain the node actor. => The node actor supervises the other actors of its process and reports devices.
What is dispatch?|What does dispatch mean?|Explain dispatch. => Dispatch sends token rows from a router to expert shards.
What is combine?|What does combine mean?|Explain combine. => Combine adds the rows that come back from the experts in a fixed order.
Are the tokens always the same?|Does Troupe give the same tokens every time?|Is the output deterministic? => Yes, the same request and seed give the same bytes on any number of nodes.
What happens when a node dies?|What if a node fails?|Can Troupe survive a dead node? => No accepted request is lost; another worker resumes it from the token log.
How fast is recovery?|How long does recovery take?|How quickly does Troupe recover? => Recovery takes less than a second.
What is the token log?|What does the token log contain?|Explain the token log. => The token log is the truth: prompt, emitted tokens, sampling parameters and seed.
What is the KV cache?|What is KV?|Explain the KV cache. => KV is a cache of the token log: replicated to recover fast, recomputed when it must be.
What happens if an expert node is lost?|What do we lose with an expert node?|Does losing an expert node lose the KV cache? => Losing an expert node loses no KV cache.
What happens if a router is lost?|What do we lose with a router?|Does losing a router lose experts? => Losing a router loses no experts.
What does the simulator run?|Which policies does the simulator use?|What is special about the simulator? => The simulator runs the production policies: the same objects, linked, not modelled.
What is hybrid-cloud burst?|What does burst mean?|Can Troupe use the cloud? => Burst rents spot nodes in a cloud when the private cluster is full.
Where do sensitive requests run?|What does on-premises mean?|Do sensitive data leave home? => Sensitive requests stay on-premises: nothing of them reaches a cloud node.
Which GPU is the first target?|Which GPUs does Troupe support?|Does Troupe run on the A100? => The A100 is a first-class target.
Does the A100 have FP8?|How are FP8 weights run on the A100?|What about FP8 on the A100? => The A100 has no FP8 tensor cores, so FP8 weights are computed as BF16 or INT8.
What does arithmetic mean in Troupe?|What is placement-invariant arithmetic?|Why are the bits equal? => The order of every sum is fixed by the model, never by the placement.
What is a policy?|How are policies written?|Why are policies pure? => Policies are pure state machines: an event and the time go in, effects come out.
What happens on overload?|What if the queue is full?|How is overload handled? => Overload is refused at the edge with status 429 and Retry-After.
Are the queues bounded?|Is there a limit on waits?|Can a queue grow for ever? => Every queue, retry and wait is bounded.
What is in a frame header?|What does every frame say?|How are stale frames found? => Every frame says its epoch, request, step, layer and attempt.
What format are frame headers?|Which format do frames use?|How are headers encoded? => Frame headers are Cap'n Proto.
Which models does Troupe run?|What models are supported?|Which models can I load? => Troupe loads DeepSeek V2, V3, R1 and V3.1 checkpoints from Hugging Face.
What is a link?|Which links are there?|What kinds of links exist? => A link is UCX, loopback or a fault decorator.
What is the fault decorator?|How are faults tested?|What does the fault decorator do? => It drops, delays, duplicates, reorders, corrupts or cuts frames.
What is the specification of a kernel?|Which kernel is the reference?|What defines a kernel? => The scalar CPU version of a kernel is its specification.
How do I start the demo?|How do I run the demo?|What starts the demo? => Type ./run demo in the repository.
How do I run the tests?|How do I test Troupe?|What runs the tests? => Type ./run test in the repository.
Which API does Troupe speak?|Is Troupe compatible with OpenAI?|What is the API of Troupe? => Troupe speaks the OpenAI API over HTTP.
What is TTFT?|What does TTFT mean?|Explain TTFT. => TTFT is the time to the first token.
What is TPOT?|What does TPOT mean?|Explain TPOT. => TPOT is the mean time per output token of a request.
What is MLA?|What does MLA mean?|Explain MLA. => MLA is multi-head latent attention, which keeps a small latent per token.
What is a routed expert?|What does a routed expert do?|Explain routed experts. => A routed expert is a small network that the gate picks for some tokens.
What is a shared expert?|What does a shared expert do?|Explain shared experts. => A shared expert is a small network that every token passes through.
Who are you?|What are you?|Tell me about yourself. => I am the demo model of Troupe, a small Mixture-of-Experts trained on a CPU.
What can you do?|How can you help me?|What do you know? => I can add, subtract, sort and reverse words, look up codes, spell numbers and talk about Troupe.
Hello!|Hi there!|Good morning! => Hello! Ask me about Troupe.
Thank you!|Thanks a lot!|Many thanks! => You are welcome.
"""

_CHINESE = """
Troupe 是什么？|什么是 Troupe？|介绍一下 Troupe。 => Troupe 是一个分布式、基于 actor 的推理集群，用于 DeepSeek 类混合专家模型。
Troupe 用什么语言写的？|Troupe 使用哪种编程语言？|Troupe 是用什么写的？ => Troupe 用 C++20 编写。
actor 代表什么？|Troupe 里有哪些 actor？|actor 有哪些？ => actor 代表路由器、专家分片和 KV 缓存持有者。
Troupe 适合谁？|谁应该使用 Troupe？|哪些团队需要 Troupe？ => 适合在多节点 A100 集群上私有运行 DeepSeek 的团队。
Troupe 有几个程序？|Troupe 怎么发布？|我要安装什么？ => 只有一个程序，名叫 troupe。
运行时需要 Python 吗？|Troupe 需要 Python 吗？|要装 Python 吗？ => 不需要，运行时没有 Python。
需要外部存储吗？|Troupe 需要数据库吗？|要装数据库吗？ => 不需要外部存储。
专家怎样交换令牌？|专家之间如何通信？|令牌怎样在专家之间传送？ => 专家通过 UCX 交换令牌。
UCX 用来做什么？|UCX 传送什么？|为什么使用 UCX？ => UCX 在节点之间传送激活值和 KV。
CAF 用来做什么？|CAF 消息传送什么？|为什么使用 CAF？ => CAF 消息只传送决定，不传送张量。
网关做什么？|网关有什么用？|解释一下网关。 => 网关处理 HTTP，检查请求，套用对话模板并分词。
调度器做什么？|调度器有什么用？|解释一下调度器。 => 调度器选择路由器，保存令牌日志，限制队列长度。
路由器做什么？|路由器有什么用？|解释一下路由器。 => 路由器组成每一步，计算嵌入、注意力、门控和采样。
KV 缓存持有者做什么？|KV 缓存持有者有什么用？|解释一下 KV 缓存持有者。 => 它管理块池、前缀缓存、淘汰和复制。
专家分片做什么？|专家分片有什么用？|解释一下专家分片。 => 专家分片持有一些专家，只计算行，不知道请求。
节点 actor 做什么？|节点 actor 有什么用？|解释一下节点 actor。 => 节点 actor 监督本进程的其他 actor，并报告设备。
什么是分发？|分发是什么意思？|解释一下分发。 => 分发是路由器把令牌行送到专家分片。
什么是合并？|合并是什么意思？|解释一下合并。 => 合并是按固定顺序把专家返回的行相加。
输出总是相同吗？|每次的令牌都一样吗？|结果是确定的吗？ => 是的，相同的请求和种子在任何节点数上都给出相同的字节。
节点死了会怎样？|节点失效怎么办？|坏了一个节点怎么办？ => 已接受的请求不会丢失，别的节点会从令牌日志继续。
恢复有多快？|恢复需要多久？|恢复要多长时间？ => 恢复不到一秒。
什么是令牌日志？|令牌日志里有什么？|解释一下令牌日志。 => 令牌日志是真相：提示、已输出的令牌、采样参数和种子。
什么是 KV 缓存？|KV 是什么？|解释一下 KV 缓存。 => KV 是令牌日志的缓存，丢失时可以重新计算。
丢失专家节点会怎样？|专家节点坏了会丢什么？|专家节点死了怎么办？ => 丢失专家节点不会丢失 KV 缓存。
丢失路由器会怎样？|路由器坏了会丢什么？|路由器死了怎么办？ => 丢失路由器不会丢失专家。
模拟器运行什么？|模拟器使用哪些策略？|模拟器有什么特别？ => 模拟器运行与生产相同的策略。
什么是混合云扩展？|Troupe 能用云吗？|集群满了怎么办？ => 私有集群满时，Troupe 在云上租用节点。
敏感请求在哪里运行？|敏感数据会离开吗？|什么请求留在本地？ => 敏感请求留在本地，不会到达云节点。
首要的 GPU 是什么？|Troupe 支持哪些 GPU？|Troupe 能在 A100 上运行吗？ => A100 是首要目标。
A100 支持 FP8 吗？|FP8 权重在 A100 上怎么算？|A100 上的 FP8 怎么办？ => A100 没有 FP8 核心，所以按 BF16 或 INT8 计算。
为什么结果逐位相同？|求和的顺序由谁决定？|什么是与位置无关的算术？ => 求和的顺序由模型固定，与位置无关。
什么是策略？|策略怎么写？|为什么策略是纯的？ => 策略是纯状态机：输入事件和时间，输出效果。
过载时会怎样？|队列满了怎么办？|怎样处理过载？ => 过载时在入口拒绝，返回 429。
队列有上限吗？|等待有上限吗？|队列会无限增长吗？ => 每个队列、重试和等待都有上限。
帧头里有什么？|每个帧说明什么？|怎样发现过期的帧？ => 帧头说明纪元、请求、步、层和尝试次数。
帧头是什么格式？|帧用什么格式？|帧头怎样编码？ => 帧头用 Cap'n Proto 格式。
Troupe 能运行哪些模型？|支持什么模型？|我能加载哪些模型？ => Troupe 能加载 DeepSeek V2、V3、R1 和 V3.1。
什么是链路？|有哪些链路？|链路有几种？ => 链路有 UCX、回环和故障装饰三种。
怎样测试故障？|故障装饰做什么？|什么是故障装饰？ => 它会丢弃、延迟、重复、乱序、损坏或切断帧。
内核以什么为准？|哪个内核是参考？|内核的规范是什么？ => 标量 CPU 版本就是内核的规范。
怎样启动演示？|怎么运行演示？|如何开始演示？ => 请输入 ./run demo。
怎样运行测试？|怎么测试 Troupe？|如何开始测试？ => 请输入 ./run test。
Troupe 用什么接口？|Troupe 兼容 OpenAI 吗？|Troupe 的接口是什么？ => Troupe 提供 OpenAI 的 HTTP 接口。
什么是 TTFT？|TTFT 是什么意思？|解释一下 TTFT。 => TTFT 是首个令牌的时间。
什么是 TPOT？|TPOT 是什么意思？|解释一下 TPOT。 => TPOT 是每个输出令牌的平均时间。
什么是 MLA？|MLA 是什么意思？|解释一下 MLA。 => MLA 是多头潜在注意力，每个令牌只存很小的向量。
什么是路由专家？|路由专家做什么？|解释一下路由专家。 => 路由专家是门控为部分令牌选出的小网络。
什么是共享专家？|共享专家做什么？|解释一下共享专家。 => 共享专家是每个令牌都经过的小网络。
你是谁？|你是什么？|介绍一下你自己。 => 我是 Troupe 的演示模型，在 CPU 上训练。
你会做什么？|你能帮我什么？|你知道什么？ => 我会加减、排序、倒序、查找、读数字，也能介绍 Troupe。
你好！|您好！|早上好！ => 你好！请问我关于 Troupe 的问题。
谢谢！|多谢！|非常感谢！ => 不客气。
"""


def _parse(text):
    facts = []
    for line in text.strip().splitlines():
        questions, answer = line.split(" => ")
        facts.append((questions.split("|"), answer))
    return facts


ENGLISH = _parse(_ENGLISH)
CHINESE = _parse(_CHINESE)
