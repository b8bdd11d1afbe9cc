"""Every string of the page, English and Simplified Chinese side by side.

    label("tab.data")                            for what stands still: the browser picks its language (gr.I18n)
    say(language, "progress.step", step=3, …)    for what the server writes: pass language_of(request)

The help of an option is written once, in config.py, a note in views/notes.py, a finding in feedback/findings.py, and
what the engine says where it says it; only their translations are here.
"""

import re
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from kto_workbench.config import options
from kto_workbench.feedback.findings import Finding
from kto_workbench.views.notes import TEXTS as NOTES

LANGUAGES = ("en", "zh")

WORDS: dict[str, tuple[str, str]] = {
    "app.header": (
        '<div class="kto-title"><h1>KTO Workbench</h1><p>Thumbs in, a better model out.</p></div>',
        '<div class="kto-title"><h1>KTO Workbench</h1><p>用点赞与点踩，炼出更好的模型。</p></div>',
    ),
    "tab.data": ("Data", "数据"),
    "tab.train": ("Train", "训练"),
    "tab.compare": ("Compare", "对比"),
    "tab.feedback": ("Feedback", "反馈"),
    "tab.runs": ("Runs", "历史"),
    "tab.learn": ("Learn", "原理"),
    # data
    "data.source": ("Feedback", "反馈数据"),
    "data.source.help": ("A demo, or a file that you drop below.", "选择示例，或在下方拖入文件。"),
    "data.upload": ("Drop a file: JSONL, JSON, CSV or Parquet", "拖入文件：JSONL、JSON、CSV 或 Parquet"),
    "data.not_kept": ("The file could not be kept: {reason}.", "文件无法保存：{reason}。"),
    "data.ratio": ("All thumbs up weigh, against all thumbs down", "点赞总权重 ÷ 点踩总权重"),
    "data.ratio.help": (
        "1 to 1.5 times, by the paper. The weights λ follow.",
        "论文建议取 1 到 1.5；权重 λ 随之确定。",
    ),
    "data.train": ("Train on this →", "用这些数据训练 →"),
    "source.demo": ("Demo: kind and brief", "示例：友善而简短"),
    "source.demo-rare": ("Demo: thumbs up are rare (1 in 10)", "示例：点赞稀少（十分之一）"),
    "source.demo-right-or-wrong": ("Demo: right or wrong", "示例：对与错"),
    "source.thumbs": ("Thumbs collected here", "在此收集的反馈"),
    "side.up": ("Thumbs up", "点赞"),
    "side.down": ("Thumbs down", "点踩"),
    "card.rows": ("Rows", "行数"),
    "card.rows.hint": ("usable", "可用"),
    "card.up.hint": ("desirable", "想要的"),
    "card.down.hint": ("undesirable", "不想要的"),
    "card.odds": ("Up : down", "赞 : 踩"),
    "card.odds.hint": ("as counted", "按数量"),
    "card.weight_up.hint": ("per up", "每个点赞"),
    "card.weight_down.hint": ("per down", "每个点踩"),
    "card.prompts": ("Different prompts", "不同的提示"),
    "card.prompts.hint": ("{each:.2g} answers each", "平均每个 {each:.2g} 个回答"),
    "card.prompt_tokens": ("Prompt, in tokens", "提示（词元）"),
    "card.completion_tokens": ("Answer, in tokens", "回答（词元）"),
    "card.tokens.hint": ("median; 95 % have at most {most:,}", "中位数；95% 不超过 {most:,}"),
    "card.tokens.waiting": ("counting …", "正在统计……"),
    "card.tokens.unknown": ("once the model is on this machine", "模型下载到本机后显示"),
    "balance.counted": ("Counted", "数量"),
    "balance.weighted": ("With λ", "乘以 λ"),
    "balance.spoken": ("{name}: thumbs up {up}, thumbs down {down}", "{name}：点赞 {up}，点踩 {down}"),
    "problems.none": ("Every row can be used.", "所有行都可用。"),
    "problems.some": ("{count:,} rows were skipped; the rest can be used.", "跳过 {count:,} 行，其余可用。"),
    "problems.more": ("and {count:,} more", "还有 {count:,} 行"),
    "problems.line": ("Line", "行"),
    "problems.field": ("Field", "字段"),
    "problems.reason": ("Reason", "原因"),
    "rows.title": ("Rows", "数据行"),
    "rows.all": ("All", "全部"),
    "rows.up": ("Up", "点赞"),
    "rows.down": ("Down", "点踩"),
    "rows.before": ("← Back", "← 上一页"),
    "rows.after": ("Next →", "下一页 →"),
    "rows.where": ("{first:,}–{last:,} of {total}", "第 {first:,}–{last:,} 行，共 {total} 行"),
    "rows.none": ("No rows to show.", "没有可显示的行。"),
    # the check
    "check.fixes": ("Fixes", "修复"),
    "check.fix": ("Make a fixed file and use it", "生成修复后的文件并使用"),
    "check.lines": ("lines {lines}", "第 {lines} 行"),
    "check.rendered": ("As the model sees them", "按模型所见显示"),
    "check.elsewhere": (
        "Model {model} is not on this machine; Start on the Train tab fetches it. Until then, rows show as they are.",
        "模型 {model} 不在本机；在“训练”页点击“开始”时才会下载。在此之前按原样显示数据行。",
    ),
    "check.tokens": (
        "{prompt:,} tokens of prompt, {completion:,} trained",
        "提示 {prompt:,} 个词元，训练 {completion:,} 个",
    ),
    "check.cut": ("; {count:,} cut off", "；截去 {count:,} 个"),
    # train
    "train.new": ("<h2>Settings of the next run</h2>", "<h2>下一次训练的设置</h2>"),
    "train.more": ("More options", "更多选项"),
    "train.presets": ("Presets", "预设"),
    "train.preset": ("Preset", "预设"),
    "train.preset.help": ("Choose one, or type a new name.", "选择一个，或输入新名称。"),
    "train.preset.load": ("Load", "载入"),
    "train.preset.save": ("Save", "保存"),
    "train.preset.saved": ("Saved as {name}.", "已保存为 {name}。"),
    "train.exact": ("What Start will run", "“开始”将执行的命令"),
    "train.command": ("The same in a shell", "等价的命令行"),
    "expected.of": ("Memory: about {span} GB of {free} GB free{where}", "内存：约 {span} GB，{where}可用 {free} GB"),
    "expected.gpu": (" on the GPU", "GPU "),
    "expected.tight": (
        " (tight: see batch size, Longest row and 4-bit model)",
        "（紧张：可调小批大小、最大长度，或用 4 位模型）",
    ),
    "expected.unknown": (
        "The model is not on this machine yet: Start fetches it. Memory is estimated then.",
        "模型尚不在本机：点击“开始”时下载，之后会估算内存。",
    ),
    "expected.time": ("about {time}, at the pace of the last run", "约需 {time}（按上次训练的速度）"),
    "train.start": ("Start", "开始"),
    "train.stop": ("Stop", "停止"),
    "train.resume": ("Resume", "继续"),
    "train.queued": (
        "Another run is at work, so this one waits for its turn.",
        "另一个训练正在进行，本次训练已排队等候。",
    ),
    "train.stopping": (
        "Stopping at the next step; the adapter so far is kept.",
        "将在下一步停止；目前的适配器会保留。",
    ),
    "live.run": ("Run shown", "当前显示"),
    "live.none": ("No run yet. Start trains on the chosen feedback.", "还没有训练。点击“开始”即可用所选数据训练。"),
    "live.part": ("Curves of", "曲线来源"),
    "live.both": ("both", "两者"),
    "live.train": ("training rows", "训练数据"),
    "live.eval": ("held-out rows", "留出数据"),
    "live.smoothing": ("Smoothing", "平滑"),
    "live.chart": ("Third chart", "第三张图"),
    "chart.rewards": ("Rewards, and β·z0 between them", "奖励，以及其间的 β·z0"),
    "chart.z0": ("Reference point z0 (KL, in nats)", "参考点 z0（KL，单位 nat）"),
    "chart.loss": ("Loss", "损失"),
    "chart.logps": ("Log-probabilities of the answers", "回答的对数概率"),
    "chart.learning_rate": ("Learning rate", "学习率"),
    "chart.grad_norm": ("Gradient norm", "梯度范数"),
    "chart.tokens_per_second": ("Tokens a second", "每秒词元数"),
    "chart.memory": ("Memory (GiB)", "内存（GiB）"),
    "curve.chosen": ("thumbs up", "点赞"),
    "curve.rejected": ("thumbs down", "点踩"),
    "curve.margin": ("margin", "差值"),
    "curve.held_out": ("{curve}, held out", "{curve}（留出）"),
    "curve.beta_z0": ("β·z0", "β·z0"),
    "curve.z0": ("z0", "z0"),
    "curve.z0_raw": ("before clamping at 0", "截断到 0 之前"),
    "curve.loss": ("loss", "损失"),
    "curve.learning_rate": ("learning rate", "学习率"),
    "curve.grad_norm": ("gradient norm", "梯度范数"),
    "curve.tokens_per_second": ("tokens a second", "每秒词元数"),
    "curve.memory": ("GiB", "GiB"),
    "progress.label": ("Progress of the training", "训练进度"),
    "progress.step": ("step {step:,} of {total:,}", "第 {step:,} / {total:,} 步"),
    "progress.epoch": ("epoch {epoch}", "第 {epoch} 轮"),
    "progress.left": ("{time} left", "剩余 {time}"),
    "progress.took": ("took {time}", "用时 {time}"),
    "progress.waking": (
        "The training process is loading its libraries and the model.",
        "训练进程正在加载程序库和模型。",
    ),
    "progress.log": ("End of its log", "日志末尾"),
    "time.seconds": ("{count} s", "{count} 秒"),
    "time.minutes": ("{count} min", "{count} 分钟"),
    "time.hours": ("{hours} h {minutes} min", "{hours} 小时 {minutes} 分"),
    "state.queued": ("waiting", "排队中"),
    "state.starting": ("starting", "启动中"),
    "state.running": ("training", "训练中"),
    "state.stopping": ("stopping", "停止中"),
    "state.finished": ("finished", "已完成"),
    "state.stopped": ("stopped", "已停止"),
    "state.failed": ("failed", "失败"),
    "state.crashed": ("crashed", "已崩溃"),
    "samples.title": ("<h2>Watched answers</h2>", "<h2>观察用的回答</h2>"),
    "samples.now": ("Answer again now", "立即重新回答"),
    "samples.none": ("Watched answers appear here while the run trains.", "训练期间，这里会显示观察用的回答。"),
    "samples.step": ("at step {step:,}", "第 {step:,} 步"),
    "answer.reference": ("Reference", "参考模型"),
    "answer.tuned": ("Tuned", "训练后"),
    # compare
    "compare.intro": (
        "<h2>The same prompt, the same seed, with and without what was learned</h2>",
        "<h2>同样的提示、同样的种子：学习前后对照</h2>",
    ),
    "compare.prompt": ("Prompt", "提示"),
    "compare.prompt.help": ("Several: a line of --- between them.", "多个提示之间用单独一行 --- 隔开。"),
    "compare.file.title": ("Prompts from a file", "来自文件的提示"),
    "compare.file": (
        "TXT (one a line), JSONL or JSON; asked instead of the text above",
        "TXT（每行一个）、JSONL 或 JSON；用来代替上面的文本",
    ),
    "compare.ideas": ("Try one of these", "试试这些"),
    "compare.run": ("Run", "训练"),
    "compare.against": ("Against", "对照"),
    "compare.its_reference": ("the run's reference", "该训练的参考模型"),
    "compare.settings": ("System prompt and sampling", "系统提示与采样"),
    "compare.system": ("System prompt", "系统提示"),
    "compare.temperature": ("Temperature", "温度"),
    "compare.temperature.help": (
        "0 is greedy, which misleads on small models.",
        "0 为贪心解码，对小模型容易误导。",
    ),
    "compare.length": ("Longest answer, in tokens", "最长回答（词元）"),
    "compare.unload": ("Unload the models", "卸载模型"),
    "compare.unloaded": (
        "The models are unloaded; the next answer loads them again.",
        "模型已卸载；下次回答时会重新载入。",
    ),
    "compare.seed": ("Seed", "种子"),
    "compare.generate": ("Answer", "生成"),
    "compare.another": ("Another seed", "换个种子"),
    "compare.halt": ("Stop", "停止"),
    "compare.empty": ("Write a prompt first.", "请先输入提示。"),
    "compare.waiting": ("Waking the model …", "正在唤醒模型……"),
    "compare.same": (
        "Both sides answered the same; try another seed, or train longer.",
        "两边回答相同；换个种子，或训练更久再试。",
    ),
    "compare.more": (
        "These are the first {shown:,} prompts; {count:,} more are left to the evaluation below.",
        "这里只回答前 {shown:,} 个提示；其余 {count:,} 个请用下方的评估。",
    ),
    "compare.marks": ("Mark differences", "标出差异"),
    "compare.key.mark": ("underlined", "带下划线"),
    "compare.key": ("what only this side says here", "此处只有这一边说的内容"),
    "compare.where": (
        "Prompts {first:,} to {last:,} of {total:,}; {ready:,} answered by both.",
        "第 {first:,} 至 {last:,} 个提示，共 {total:,} 个；两边都已回答 {ready:,} 个。",
    ),
    "side.reference": ("reference", "参考模型"),
    "side.checkpoint": ("checkpoint {step}", "检查点 {step}"),
    # why
    "why.open": ("Why? The reward, token by token", "为什么？逐词元看奖励"),
    "why.close": ("Back to the text", "回到文本"),
    "why.waiting": ("Both sides read the answer …", "两边正在阅读这个回答……"),
    "why.reward": (
        "reward = β · Σ = {beta:g} × {total:+.4f} nats = {reward:+.4f}",
        "奖励 = β · Σ = {beta:g} × {total:+.4f} nat = {reward:+.4f}",
    ),
    "why.less": ("-{full:.2g} nats: likelier before", "-{full:.2g} nat：对照一方更可能这样说"),
    "why.more": ("+{full:.2g} nats: likelier after tuning", "+{full:.2g} nat：训练后更可能这样说"),
    "why.strongest": ("Strongest:", "影响最大："),
    # the blind vote
    "blind.title": ("Blind vote", "盲投"),
    "blind.help": (
        "<h2>Which answer is better, not knowing whose it is</h2><p>Keys: ← for A, → for B, ↓ for a tie, space for "
        "the next pair. Each vote becomes two thumbs, up for the better answer and down for the other; a tie becomes "
        "none. Sides, system prompt and sampling are those chosen above.</p>",
        "<h2>不知道出自哪一边时，哪个回答更好</h2><p>按键：← 选 A，→ 选 B，↓ 平局，空格看下一对。"
        "每一票记为两个反馈：较好的点赞，另一个点踩；平局不记。双方、系统提示与采样沿用上面的选择。</p>",
    ),
    "blind.from.held-out": ("held out by this run", "此训练留出的提示"),
    "blind.from.suggested": ("the suggestions above", "上面建议的提示"),
    "blind.from.file": ("from a file", "来自文件"),
    "blind.count": ("Pairs, at most", "最多几对"),
    "blind.unveils": ("Show the sides after each vote", "每次投票后揭示双方"),
    "blind.unveils.help": ("Off: only at the end, which stays blind longest.", "不选则到最后才揭示，盲得最彻底。"),
    "blind.start": ("Start the vote", "开始投票"),
    "blind.reveal": ("Unveil the figures", "揭示结果"),
    "blind.left": ("← A is better", "← A 更好"),
    "blind.tie": ("↓ Tie", "↓ 平局"),
    "blind.right": ("→ B is better", "→ B 更好"),
    "blind.next": ("Next pair (space)", "下一对（空格）"),
    "blind.won.tuned": ("You chose the tuned side.", "你选了训练后的一边。"),
    "blind.won.reference": ("You chose the other side, not the tuned one.", "你选了对照的一边，而不是训练后的。"),
    "blind.won.tie": ("A tie: no thumbs.", "平局：不记反馈。"),
    "blind.over": ("That was the last pair. Every vote is kept.", "已是最后一对。每一票都已保存。"),
    "blind.gone": ("This vote is no longer here; start a new one.", "这次投票已不在；请重新开始。"),
    "blind.no_prompts": (
        "This run has no prompts to suggest; take them from a file.",
        "此训练没有可建议的提示；请使用文件。",
    ),
    "blind.none": ("There are no votes on these sides yet.", "这两边还没有投票。"),
    "blind.judge": ("you, blind", "盲投"),
    "blind.same": (
        "{count:,} of the ties are pairs of equal answers, which were not shown.",
        "其中 {count:,} 个平局是两个相同的回答，没有展示。",
    ),
    "blind.all": (
        "All {n:,} votes on these sides: win rate {rate:.1%}, between {low:.1%} and {high:.1%}.",
        "这两边的全部 {n:,} 票：胜率 {rate:.1%}，95% 区间 {low:.1%} 至 {high:.1%}。",
    ),
    "blind.votes": ("The votes ({count:,})", "各次投票（{count:,}）"),
    "blind.column.winner": ("Winner", "胜者"),
    "blind.column.prompt": ("Prompt", "提示"),
    "blind.column.reference": ("Reference side", "对照一边"),
    "blind.column.tuned": ("Tuned side", "训练后一边"),
    "blind.winner.tuned": ("tuned", "训练后"),
    "blind.winner.reference": ("reference", "对照"),
    "blind.winner.tie": ("tie", "平局"),
    # evaluate
    "evaluate.title": ("Evaluate on many prompts", "在多个提示上评估"),
    "evaluate.intro": (
        "<h2>Who wins, and at what length</h2><p>Both sides answer every prompt with the same seed; a judge says which "
        "answer wins. It goes on if the page is closed, and is kept with the run.</p>",
        "<h2>谁胜出，又靠多长的回答</h2><p>两边用同一种子回答每个提示，由评判者决定哪个回答胜出。"
        "关闭页面后仍会继续，结果随训练保存。</p>",
    ),
    "evaluate.against": ("Against", "对手"),
    "evaluate.its_reference": ("its reference", "它的参考模型"),
    "evaluate.prompts": ("Prompts", "提示"),
    "evaluate.prompts.held-out": ("Held-out prompts", "训练时留出的提示"),
    "evaluate.prompts.demo": ("The demo's evaluation", "示例的评估提示"),
    "evaluate.limit": ("At most, 0 for all", "最多（0 为全部）"),
    "evaluate.upload": ("Add a file of prompts", "添加提示文件"),
    "evaluate.taken": ("{count:,} prompts in {name}.", "{name} 中有 {count:,} 个提示。"),
    "evaluate.judge": ("Judge", "评判者"),
    "judge.none": ("nobody: lengths and KL only", "无：只看长度与 KL"),
    "judge.regex": ("a pattern occurs", "匹配正则表达式"),
    "judge.length": ("so many words", "词数在范围内"),
    "judge.shorter": ("fewer words win", "词少者胜"),
    "judge.longer": ("more words win", "词多者胜"),
    "judge.json": ("valid JSON", "有效的 JSON"),
    "judge.exact": ("is the expected answer", "与预期答案一致"),
    "judge.contains": ("contains the expected answer", "包含预期答案"),
    "judge.demo": ("the demo's: kind and brief", "示例的评判：友善而简短"),
    "judge.reward": ("a reward model", "奖励模型"),
    "judge.endpoint": ("a language model at an endpoint", "接口上的语言模型"),
    "evaluate.argument": ("Detail", "细节"),
    "evaluate.argument.regex": ("Pattern; ! before it: must not occur", "正则表达式；前加 ! 表示不得出现"),
    "evaluate.argument.length": ("Words, such as 10-50", "词数，例如 10-50"),
    "evaluate.argument.reward": ("Model: a folder or a hub id", "模型：文件夹或 Hub 名称"),
    "evaluate.checkpoints": ("Every checkpoint", "所有检查点"),
    "evaluate.checkpoints.help": ("A win rate for each step.", "每一步的胜率。"),
    "evaluate.url": ("Address, up to /v1", "地址，到 /v1 为止"),
    "evaluate.model": ("Its name for the model", "该处的模型名称"),
    "evaluate.key": ("Key, by its variable", "密钥所在的环境变量"),
    "evaluate.key.help": ("The variable's name, not the key.", "填变量名，不要填密钥。"),
    "evaluate.criteria": ("What makes an answer better", "什么样的回答更好"),
    "evaluate.criteria.help": (
        "Empty: helpful, correct, honest, polite.",
        "留空：有帮助、正确、诚实、礼貌。",
    ),
    "evaluate.max_tokens": ("Longest reply", "最长答复（词元）"),
    "evaluate.price_read": ("Price of a million tokens read", "每百万输入词元的价格"),
    "evaluate.price_written": ("Price of a million tokens written", "每百万输出词元的价格"),
    "evaluate.count": ("{count:,} prompts.", "{count:,} 个提示。"),
    "evaluate.cost": (
        "The judge gets at most {requests:,} requests: about {read:,} tokens to read, {written:,} to write{price}. "
        "Texts count as characters / 4, answers as the longest allowed.",
        "评判者最多收到 {requests:,} 个请求：约读 {read:,} 个词元，写 {written:,} 个{price}。"
        "文本按字符数 / 4 计，回答按允许的最大长度计。",
    ),
    "evaluate.price": (", {price:,.2f} in money", "，费用 {price:,.2f}"),
    "evaluate.start": ("Evaluate", "开始评估"),
    "evaluate.shown": ("Evaluation shown", "当前显示的评估"),
    "evaluate.progress": ("Progress of the evaluation", "评估进度"),
    "evaluate.state.starting": ("starting", "启动中"),
    "evaluate.state.running": ("at work", "进行中"),
    "evaluate.state.stopped": ("stopped", "已停止"),
    "evaluate.state.failed": ("failed", "失败"),
    "evaluate.state.crashed": ("broke off", "已中断"),
    "evaluate.stage.waking": ("Waking the model …", "正在唤醒模型……"),
    "evaluate.stage.waiting": ("Waiting for the device …", "正在等待设备……"),
    "evaluate.stage.answers": ("{done:,} of {total:,} answers", "已生成 {done:,} / {total:,} 个回答"),
    "evaluate.stage.scores": ("Measured {done:,} of {total:,} sides", "已测量 {done:,} / {total:,} 方"),
    "evaluate.stage.judge": ("Judged {done:,} of {total:,}", "已评判 {done:,} / {total:,}"),
    "evaluate.wins_by": ("won by the tuned side, by judge {judge}", "训练后一方的胜率（评判：{judge}）"),
    "evaluate.spoken": (
        "Win rate {rate:.1%}, between {low:.1%} and {high:.1%} (95 %; ties count half).",
        "胜率 {rate:.1%}，95% 区间 {low:.1%} 至 {high:.1%}（平局计一半）。",
    ),
    "evaluate.counts": (
        "{wins:,} wins, {ties:,} ties, {losses:,} losses.",
        "{wins:,} 胜，{ties:,} 平，{losses:,} 负。",
    ),
    "evaluate.sign_test": ("Sign test: p {p}.", "符号检验：p {p}。"),
    "evaluate.unread": ("The judge said nothing that could be read.", "评判者的答复都无法读取。"),
    "evaluate.longer_won": (
        "Of the pairs that somebody won, the longer answer won {share:.0%}: this judgement may be one of length.",
        "在分出胜负的各对中，较长的回答赢了 {share:.0%}：评判的也许只是长度。",
    ),
    "evaluate.biased": (
        "The judge chose the answer that stood first {share:.0%} of the time; such pairs count as ties.",
        "评判者有 {share:.0%} 的时候选择了排在前面的回答；这样的对按平局计。",
    ),
    "evaluate.unparsed": (
        "{count:,} replies could not be read, and their pairs are left out; a judge that thinks first needs longer "
        "replies.",
        "{count:,} 个答复无法读取，相应的对未计入；会先思考的评判者需要更长的答复。",
    ),
    "evaluate.figures": ("Figures", "数据"),
    "evaluate.words": ("Words an answer", "每个回答的词数"),
    "evaluate.tokens": ("Tokens an answer", "每个回答的词元数"),
    "evaluate.distinct_1": ("Distinct words (distinct-1)", "不同词的比例（distinct-1）"),
    "evaluate.distinct_2": ("Distinct pairs (distinct-2)", "不同词对的比例（distinct-2）"),
    "evaluate.kl.per_answer": ("KL to the other side, nats an answer", "与另一方的 KL（每个回答，nat）"),
    "evaluate.kl.per_token": ("KL, nats a token", "KL（每个词元，nat）"),
    "evaluate.bias": ("Position bias (50 % is none)", "位置偏差（50% 为无）"),
    "evaluate.requests": ("Requests", "请求"),
    "evaluate.asked": ("{asked:,}; {cached:,} known before", "{asked:,}；{cached:,} 个已有答复"),
    "evaluate.rate": ("win rate", "胜率"),
    "evaluate.interval": ("95 % interval", "95% 区间"),
    "evaluate.by_step": ("Win rate by step", "各步的胜率"),
    "evaluate.kl_by_step": ("KL by step, nats an answer", "各步的 KL（每个回答，nat）"),
    "evaluate.examples.tuned": ("Wins: {shown} of {count:,}", "胜：{count:,} 个中的 {shown} 个"),
    "evaluate.examples.reference": ("Losses: {shown} of {count:,}", "负：{count:,} 个中的 {shown} 个"),
    # feedback
    "feedback.chat": ("Give each answer a thumb", "给每个回答点赞或点踩"),
    "feedback.empty": (
        "Ask something. A thumb under an answer is kept at once, and can be trained on.",
        "问点什么。回答下方的点赞或点踩会立即保存，并可用于训练。",
    ),
    "feedback.wait": ("Wait until the answer is complete, then vote again.", "请等回答完成后再投票。"),
    "feedback.send": ("Ask", "提问"),
    "feedback.again": ("Another answer", "换个回答"),
    "feedback.clear": ("New chat", "新对话"),
    "feedback.side": ("Who answers", "由谁回答"),
    "feedback.collected": ("collected", "已收集"),
    "feedback.train": ("Train on these →", "用这些训练 →"),
    "feedback.tab.chat": ("Chat", "对话"),
    "feedback.tab.review": ("Review many", "批量评审"),
    "feedback.about": ("More about an answer", "关于某个回答"),
    "feedback.about.none": ("There is no answer yet.", "还没有回答。"),
    "feedback.about.help": ("The last one, unless you choose another.", "默认是最后一个，也可另选。"),
    "feedback.note": ("Note", "备注"),
    "feedback.note.help": ("Why? Kept with the vote.", "理由？与评价一同保存。"),
    "feedback.better": ("A better answer", "更好的回答"),
    "feedback.better.help": (
        "Change the text: yours is kept as a thumb up; the model's as a thumb down, unless you voted for it.",
        "修改文本：你写的记为点赞，模型的记为点踩，除非你已为它投票。",
    ),
    "feedback.keep": ("Keep note and answer", "保存备注与回答"),
    "feedback.kept.note": ("The note is kept.", "备注已保存。"),
    "feedback.kept.back": ("Your answer is taken back.", "你的回答已撤回。"),
    "feedback.kept.better": ("Your answer is kept as a thumb up.", "你的回答已记为点赞。"),
    "feedback.thumb_first": (
        "Give the answer a thumb first; the note is kept with it.",
        "请先给这个回答点赞或点踩；备注会随之保存。",
    ),
    "feedback.nothing_new": ("Write a note or change the answer first.", "请先写备注或修改回答。"),
    "feedback.days": ("Collected by day", "每日收集"),
    "feedback.days.before": ("before", "更早"),
    # the next round
    "round.title": ("<h2>The next round</h2>", "<h2>下一轮</h2>"),
    "round.start": ("Starts from", "起点"),
    "round.start.base": ("the base model", "基础模型"),
    "round.start.adapter": ("this run's adapter", "此训练的适配器"),
    "round.reference": ("Rewards count against", "奖励相对于"),
    "round.reference.base": ("the base model", "基础模型"),
    "round.reference.start": ("base + this adapter", "基础模型 + 此适配器"),
    "round.follows.fresh": (
        "A fresh adapter learns from all thumbs collected here; what this run has learned is left aside.",
        "新的适配器从这里收集的全部反馈学起；此训练学到的内容不会沿用。",
    ),
    "round.follows.base": (
        "Training goes on from what this run has learned; rewards count all that changed since the base model, so β "
        "holds the model near the base.",
        "在此训练所学之上继续；奖励计入相对基础模型的全部变化，β 使模型不远离基础模型。",
    ),
    "round.follows.start": (
        "Training goes on from what this run has learned; rewards begin at 0 again, so β holds the model near this "
        "run's, and rounds may lead further and further from the base.",
        "在此训练所学之上继续；奖励重新从 0 算起，β 使模型不远离此训练的结果，多轮之后可能离基础模型越来越远。",
    ),
    "round.follows.full": (
        "This run tuned the whole model: training goes on from its model, and rewards count against that model.",
        "此训练微调了整个模型：从它的模型继续，奖励相对于该模型。",
    ),
    "round.on": ("Goes on from {start}.", "从 {start} 继续。"),
    "round.on.base": (
        "Rewards count against the base model without that adapter.",
        "奖励相对于不带该适配器的基础模型。",
    ),
    "round.on.start": ("Rewards count against the base model with that adapter.", "奖励相对于基础模型加该适配器。"),
    "round.on.uniform": ("Rewards count against a uniform reference.", "奖励相对于均匀分布。"),
    # the review
    "review.help": (
        "<p>One answer at a time, by keyboard: ↑ or U thumbs up, ↓ or D thumbs down, → or space skips, ← or Z goes "
        "back and takes that vote away. Each vote is kept at once.</p>",
        "<p>逐个评价回答，可用键盘：↑ 或 U 点赞，↓ 或 D 点踩，→ 或空格跳过，← 或 Z 退回并撤销该票。"
        "每一票都立即保存。</p>",
    ),
    "review.from": ("Prompts", "提示来源"),
    "review.from.held_out": ("held out by this run", "此训练留出的提示"),
    "review.from.all": ("all of its data", "其全部数据"),
    "review.from.file": ("from a file", "来自文件"),
    "review.file": ("Prompts: TXT (one a line), JSONL or JSON", "提示文件：TXT（每行一个）、JSONL 或 JSON"),
    "review.each": ("Answers to each", "每个提示的回答数"),
    "review.start": ("Start the review", "开始评审"),
    "review.up": ("↑ Thumbs up", "↑ 点赞"),
    "review.down": ("↓ Thumbs down", "↓ 点踩"),
    "review.skip": ("→ Skip", "→ 跳过"),
    "review.back": ("← Back", "← 退回"),
    "review.where": ("{number:,} of {total:,}", "第 {number:,} / {total:,} 个"),
    "review.votes": ("{up:,} up, {down:,} down", "赞 {up:,}，踩 {down:,}"),
    "review.waiting": ("Answers are being written …", "正在生成回答……"),
    "review.empty": ("(an empty answer)", "（空回答）"),
    "review.over": (
        "That was the last one: {up:,} thumbs up, {down:,} thumbs down. Every vote is kept.",
        "已全部看完：点赞 {up:,}，点踩 {down:,}。每一票都已保存。",
    ),
    "review.no_file": ("Drop a file with prompts first.", "请先拖入提示文件。"),
    "review.gone": ("This review is no longer here; start a new one.", "这次评审已不在；请重新开始。"),
    # runs
    "runs.pick": ("Runs to look at", "要查看的训练"),
    "runs.pick.help": ("One to work with it, several to compare them.", "选一个进行操作，选多个进行比较。"),
    "runs.metric": ("Curve", "曲线"),
    "runs.name": ("Name", "名称"),
    "runs.note": ("Note", "备注"),
    "runs.save": ("Save name and note", "保存名称与备注"),
    "runs.saved": ("Saved.", "已保存。"),
    "runs.watch": ("Show on Train", "在“训练”页显示"),
    "runs.report": ("Report", "报告"),
    "export.button.adapter": ("Export adapter", "导出适配器"),
    "export.button.merged": ("Export merged model", "导出合并模型"),
    "export.button.gguf": ("Export GGUF", "导出 GGUF"),
    "export.gguf": ("GGUF file", "GGUF 文件"),
    "export.adapter": ("adapter", "适配器"),
    "export.merged": ("merged model", "合并模型"),
    "export.working": ("Exporting the {what} …{told}", "正在导出{what}……{told}"),
    "export.done": ("The {what} is in {told}", "{what}位于 {told}"),
    "export.failed": ("The {what} could not be exported. {told}", "{what}导出失败。{told}"),
    "runs.folder": ("Folder", "文件夹"),
    "runs.open": ("Open folder", "打开文件夹"),
    "runs.folder.at": (
        "The run is in {path} on the machine that serves this page.",
        "该训练位于提供本页面的机器上：{path}。",
    ),
    "runs.delete": ("Delete", "删除"),
    "runs.undo": ("Undo delete", "撤销删除"),
    "runs.deleted": ("Run {run} is in the trash; Undo takes it back.", "训练 {run} 已移入回收站；可撤销。"),
    "runs.restored": ("Run {run} is back.", "训练 {run} 已恢复。"),
    "runs.alike": ("These runs have the same settings.", "这些训练的设置相同。"),
    "runs.option": ("Option", "选项"),
    "runs.run": ("Run", "训练"),
    "runs.state": ("State", "状态"),
    "runs.data": ("Data", "数据"),
    "runs.beta": ("β", "β"),
    "runs.weights": ("λ_D / λ_U", "λ_D / λ_U"),
    "runs.rate": ("Learning rate", "学习率"),
    "runs.steps": ("Steps", "步数"),
    "runs.chosen": ("Reward up", "点赞奖励"),
    "runs.rejected": ("Reward down", "点踩奖励"),
    "runs.margin": ("Margin", "差值"),
    # learn
    "learn.value": (
        "## What an answer is worth\n"
        "KTO compares the model with its reference: r = log π(y|x) − log π<sub>ref</sub>(y|x), how much likelier "
        "an answer has become. A liked answer is worth λ<sub>D</sub> · σ(β(r − z0)), a disliked one "
        "λ<sub>U</sub> · σ(β(z0 − r)): like people, it judges gains and losses from a reference point, z0, and "
        "cares less the further away from it they are. Dots are answers of the run shown on the Train tab.",
        "## 一个回答值多少\n"
        "KTO 把模型与参考模型相比：r = log π(y|x) − log π<sub>ref</sub>(y|x)，即一个回答变得更可能了多少。"
        "被点赞的回答价值为 λ<sub>D</sub> · σ(β(r − z0))，被点踩的为 λ<sub>U</sub> · σ(β(z0 − r))：和人一样，"
        "它从参考点 z0 衡量得失，离得越远就越不在意。圆点是“训练”页所示训练的回答。",
    ),
    "learn.mine": ("Use the settings of the run shown", "使用所示训练的设置"),
    "learn.step": ("Dots: rows at step", "圆点：第几步的数据行"),
    "learn.rows": (
        "Dots: rows of run {run} at step {step:,}, {up:,} with thumbs up, {down:,} with thumbs down; z0 was {z0} nats.",
        "圆点：训练 {run} 第 {step:,} 步的数据行，点赞 {up:,}，点踩 {down:,}；当时 z0 为 {z0} nat。",
    ),
    "learn.means": (
        "Dots: the newest batch means of run {run}, which kept no rewards of single rows.",
        "圆点：训练 {run} 最近各批的均值；该训练没有保存逐行的奖励。",
    ),
    "learn.pull": (
        "## Where it still learns\n"
        "The slope of these curves is the pull on an answer. It is strongest at z0 and fades on both sides: an "
        "answer far out, already learned or hopelessly against the data, hardly moves the model any more. That "
        "makes KTO patient with wrong labels, and it is why a β that is too large stops learning early: beyond "
        "3.6/β nats from z0 a tenth of the pull is left.",
        "## 它在哪里仍在学习\n"
        "曲线的斜率就是对回答的拉力。它在 z0 处最强，向两侧减弱：很远的回答，无论是已经学会的，"
        "还是与数据完全相悖的，几乎不再推动模型。因此 KTO 对错误标注很宽容；也因此 β 过大会过早停止学习：离 z0 "
        "超过 3.6/β nat 时，拉力只剩十分之一。",
    ),
    "learn.others": (
        "## Beside DPO and SFT\n"
        "All three pull liked answers up; here is how hard, each relative to its strongest. SFT pulls every "
        "liked answer equally and for ever, and knows no dislike. DPO needs pairs, and pulls the harder the more "
        "a pair is still the wrong way round: a wrong label is fought without end. KTO needs single answers with "
        "a thumb, and lets go on both sides.",
        "## 与 DPO、SFT 相比\n"
        "三者都会提高受欢迎回答的概率；图中是各自相对于最强时的力度。SFT 对每个受欢迎的回答一视同仁，永不停止，"
        "也不懂得不喜欢。DPO 需要成对数据，一对回答的次序越错，拉力越大：错误的标注会被无休止地纠正。KTO "
        "只需要带有点赞或点踩的单个回答，两侧都会放手。",
    ),
    "learn.sign": (
        "## A puzzle about a sign\n"
        "Some notes write the loss of a disliked answer with a minus sign and then wonder why training makes bad "
        "answers likelier. The paper has it right: the loss is λ<sub>U</sub> − λ<sub>U</sub> · σ(β(z0 − r)). Its "
        "gradient by log π(y|x) is + λ<sub>U</sub> · β · σ · (1 − σ), never negative, and a descent step goes "
        "against it: **the answer becomes less likely**. Turn the sign, and bad answers are pulled up exactly "
        "like good ones. It is an error in the note, not a property of KTO. Two more that go round: KTO needs no "
        "pairs, and its loss is never below 0.",
        "## 一个关于符号的谜\n"
        "有些笔记把被点踩回答的损失写成带负号的形式，然后疑惑为何训练会让坏回答更可能出现。论文是对的：损失为 "
        "λ<sub>U</sub> − λ<sub>U</sub> · σ(β(z0 − r))。它对 log π(y|x) 的梯度是 + λ<sub>U</sub> · β · σ · (1 − "
        "σ)，从不为负，而梯度下降与之反向：**该回答变得更不可能**。把符号反过来，坏回答就会像好回答一样被抬高。"
        "这是笔记的错误，而不是 KTO 的性质。另外两个常见误解：KTO 不需要成对数据；它的损失从不小于 0。",
    ),
    "learn.faded": ("a tenth is left", "只剩十分之一"),
    "learn.chart.value": ("Value of an answer against r, in nats", "回答的价值（横轴 r，单位 nat）"),
    "learn.chart.pull": (
        "Pull on an answer against r: above 0 up, below 0 down",
        "对回答的拉力（横轴 r）：大于 0 抬高，小于 0 压低",
    ),
    "learn.chart.others": (
        "Pull on a liked answer against r (KTO), the pair's margin (DPO)",
        "对受欢迎回答的拉力（横轴：KTO 为 r，DPO 为成对差值）",
    ),
    # groups of options, as GROUPS in config.py has them
    "group.basics": ("<h3>Model and data</h3>", "<h3>模型与数据</h3>"),
    "group.kto": ("<h3>The KTO objective</h3>", "<h3>KTO 目标</h3>"),
    "group.lora": ("<h3>The adapter</h3>", "<h3>适配器</h3>"),
    "group.optimization": ("<h3>Optimization</h3>", "<h3>优化</h3>"),
    "group.memory": ("<h3>Length, memory and precision</h3>", "<h3>长度、内存与精度</h3>"),
    "group.records": ("<h3>Evaluation, checkpoints and records</h3>", "<h3>评估、检查点与记录</h3>"),
    "group.samples": ("<h3>Answers to watch while training</h3>", "<h3>训练时观察的回答</h3>"),
    # what the unfolded options do, in one line; the whole help is in config.py
    "short.model": ("demo, a folder, or a hub id", "demo、文件夹或 Hub 名称"),
    "short.data": ("the feedback", "反馈数据"),
    "short.beta": ("smaller: further away", "越小，离参考模型越远"),
    "short.desirable_weight": ("weight, from the data", "权重，随数据而定"),
    "short.undesirable_weight": ("weight, from the data", "权重，随数据而定"),
    "short.tuning": ("an adapter, or every weight", "适配器，或全部权重"),
    "short.lora_r": ("rank of the adapter", "适配器的秩"),
    "short.load_in_4bit": ("QLoRA: a quarter of the memory", "QLoRA：约四分之一的显存"),
    "short.learning_rate": ("at its peak", "峰值"),
    "short.batch_size": ("examples of one step", "每步的样本数"),
    "short.num_train_epochs": ("times through the data", "遍历数据的次数"),
    "short.max_length": ("in tokens", "词元数"),
}

# Names of options where the option's own name says too little; the others are called as in YAML.
OPTION_NAMES: dict[str, tuple[str, str]] = {
    "model": ("Model", "模型"),
    "beta": ("β", "β"),
    "desirable_weight": ("λ_D, thumbs up", "λ_D，点赞"),
    "undesirable_weight": ("λ_U, thumbs down", "λ_U，点踩"),
    "learning_rate": ("Learning rate", "学习率"),
    "batch_size": ("Batch size", "批大小"),
    "num_train_epochs": ("Epochs", "轮数"),
    "max_length": ("Longest row", "最大长度"),
    "lora_r": ("LoRA rank", "LoRA 秩"),
    "load_in_4bit": ("4-bit model", "4 位模型"),
    "tuning": ("Tuning", "微调方式"),
}

OPTION_HELP_ZH: dict[str, str] = {
    "model": "作为起点的因果语言模型：文件夹、Hub 名称或 `demo`。",
    "data": "反馈数据：文件，或名称 `demo`、`demo-rare`（点赞占十分之一）、`demo-right-or-wrong`、"
    "`thumbs`（在此工作区收集的反馈）。",
    "workspace": "存放训练、上传文件、缓存与收集到的反馈的文件夹。",
    "template": "`auto`：若模型有对话模板，则提示与回答都经过模板；`none`：纯文本。",
    "seed": "适配器、批次与观察回答的随机种子：种子相同，训练相同。",
    "objective": "`kto` 同时从点赞与点踩中学习；`sft` 只模仿点赞，作为对照基线。",
    "beta": "奖励饱和得多快，也就是模型可以离参考模型多远；越小走得越远。",
    "desirable_weight": "λ_D，点赞的权重。留空则由类别比例决定，使 (λ_D · 点赞数) / (λ_U · 点踩数) = 1。",
    "undesirable_weight": "λ_U，点踩的权重。留空则由类别比例决定。",
    "z0": "参考点 z0：`batch` 每步由批内错配对估计（多一次前向）；"
    "`every` 每 `kl_every` 步由 `kl_sample` 个错配对重新估计（更省，但更旧）；"
    "`zero` 固定为 0（免费；适用于模型已在同一数据上微调的情形）。",
    "kl_every": "z0 为 `every` 时：两次估计之间的步数。",
    "kl_sample": "z0 为 `every` 时：一次估计所用的错配对数。",
    "reference": "奖励相对于什么计算。`base`：不带任何适配器的模型（对数据做一次前向并存盘）；"
    "`start`：带有起点适配器（start_adapter）的基础模型，开销相同；"
    "`uniform`：均匀分布，无需前向：r = log π(y|x) + π 在 y 各位置上的熵。",
    "sft_weight": "在点赞回答上按此比例加入普通的下一词损失，按词元平均（LLaMA-Factory 的 pref_ftx）；没有额外开销。",
    "tuning": "`lora` 在冻结的模型上训练一个小适配器；`full` 训练全部权重，所需内存为权重的 4 到 8 倍，"
    "并写出完整模型。",
    "start_adapter": "从此适配器继续训练：一次训练，或含适配器的文件夹；沿用它的秩、alpha 与层，"
    "并须指明 `reference`：base 或 start。留空：新的适配器。",
    "lora_r": "LoRA 适配器的秩。",
    "lora_alpha": "LoRA 缩放：适配器乘以 alpha / r。",
    "lora_dropout": "训练时适配器之前的 dropout。这样即使在第 0 步奖励也有噪声，且无法使用复用激活的快速路径。",
    "lora_targets": "哪些层加适配器：`all-linear`，或用逗号分隔的名称。只加注意力层学得较少。",
    "load_in_4bit": "QLoRA：冻结的模型以 4 位保存（NF4，双重量化）：约四分之一的内存，稍慢。",
    "learning_rate": "峰值学习率。",
    "batch_size": "一个优化步的样本数，z0 与损失都在其上计算。它关乎统计而非内存：见 tokens_per_pass。",
    "num_train_epochs": "遍历数据的次数。",
    "max_steps": "无论轮数，到此步数即停；-1 表示由 num_train_epochs 决定。",
    "lr_scheduler_type": "预热之后学习率如何下降。",
    "warmup_ratio": "学习率上升阶段占总步数的比例。",
    "weight_decay": "AdamW 的权重衰减。",
    "max_grad_norm": "范数更大的梯度会缩放到此值；0 表示不缩放。",
    "optim": "优化器；分页 8 位版本可节省显存。",
    "max_length": "提示与回答合计的词元数；更长的行先截去提示的开头，再截去回答的结尾，并会计数。",
    "tokens_per_pass": "一次送入模型的词元数。只影响内存与速度：梯度与 z0 不变。显存不足时自动减半。",
    "gradient_checkpointing": "反向传播时重算激活：更省内存，时间约多三分之一。",
    "dtype": "冻结权重与激活的精度；`auto`：GPU 上为 bfloat16，CPU 上为 float32。",
    "adapter_dtype": "模型中适配器的精度；`bfloat16` 可省五分之一的激活内存，训练时另存 float32 主权重，"
    "因此微小的更新不会丢失。需要 dtype 为 bfloat16。",
    "device": "在哪里训练；`auto` 有 GPU 就用 GPU。",
    "threads": "CPU 线程数；0 表示由 torch 决定。在共享的机器上，1 常比 2 快。",
    "eval_fraction": "留出用于评估的提示比例，连同它们的所有行。",
    "eval_steps": "两次评估之间的步数；0：每轮结束时评估。",
    "save_steps": "两个检查点之间的步数，停止或崩溃后可从检查点继续；0：只在结束时保存。",
    "save_total_limit": "保留的检查点数。",
    "logging_steps": "metrics.jsonl 中两条记录之间的步数。",
    "report_to": "另外记录到 `tensorboard`、`wandb` 或 `trackio`（需自行安装）；用逗号分隔。",
    "sample_prompts": "训练时由参考模型与训练后的模型回答的提示；留空：取前几个留出的提示。",
    "sample_steps": "两次回答之间的步数；0：整个训练五次；-1：从不。",
    "sample_max_new_tokens": "最长回答的词元数。",
    "temperature": "这些回答的采样温度；0 为贪心解码，对小模型容易误导。",
}


# What notes say, by kind, as in views/notes.py: what is the matter, what to try.
NOTES_ZH: dict[str, tuple[str, str]] = {
    "nan": ("从第 {step} 步起，损失不再是数值。", "请停止，换更低的学习率，或把 dtype 设为 float32。"),
    "mismatch": (
        "两类奖励与 z0 一同猛升（点赞 {chosen:.2g}，点踩 {rejected:.2g}，z0 {z0:.2g}）："
        "模型学到的是所有回答的共性，例如它没料到的模板或前缀。",
        "检查渲染后的数据：对话模板是否是模型自己的？回答是否紧接在提示之后？",
    ),
    "both_fall": (
        "两类奖励都在下降（点赞 {chosen:.2g}，点踩 {rejected:.2g}）：人们喜欢的回答也变得更不可能。",
        "试试更低的学习率、更大的 λ_D，或加一点 sft_weight。",
    ),
    "rejected_only": (
        "差值 {margin:.2g} 几乎全部来自点踩一侧；点赞只提高了 {chosen:.2g}。",
        "若受欢迎的回答本来就很可能，这没有问题；否则试试更大的 λ_D 或加一点 sft_weight。",
    ),
    "far": (
        "z0 为 {z0:.2g} nat：模型已远离参考模型。",
        "看看观察用的回答；若已受损，试试更大的 β 或更低的学习率。",
    ),
    "still": (
        "{step} 步之后奖励几乎没有变化（差值 {margin:.2g}）。",
        "把学习率提高 3 到 10 倍试试；小模型需要远高于默认值的学习率。",
    ),
    "z0_zero": (
        "z0 已连续 {count} 步为 0：其他提示的回答变得更不可能，因此没有可减去的。",
        "当点赞点踩评价的是风格时，这很常见；灰色曲线（截断之前）显示它低于 0 多少。",
    ),
    "overfit": (
        "从第 {step} 步起，留出数据上的损失在上升，而训练数据上的仍在下降。",
        "模型开始死记硬背：提前停止，或提供更多反馈。",
    ),
    "one_side": (
        "还没有见到另一类反馈（{side}），因此只学到了一侧。",
        "请检查数据：KTO 可以只用一侧训练，但那样没有什么能拉住模型。",
    ),
}


# Findings of the check, by name: what was found, what to do, what the fix does. In English they say it themselves.
# {count} and {lines} are the finding's, the rest are figures of its `details`.
FINDINGS_ZH: dict[str, tuple[str, str, str]] = {
    "conflicts": (
        "{count:,} 行互相矛盾：{answers:,} 个回答既有点赞又有点踩。",
        "它们互相抵消：请决定取哪一边，或两边都删。",
        "删除所有互相矛盾的行",
    ),
    "duplicates": (
        "{count:,} 行与前面的行重复。",
        "重复的行会被计两次，并可能同时用于留出与训练；各留一行即可。",
        "各留第一行",
    ),
    "near-duplicates": (
        "{count:,} 行与前面的行几乎相同，其中 {opposite_thumbs:,} 行评价相反（比对了 {sampled_rows:,} 行）。",
        "请抽看几行：稍作改动的副本会让留出数据上的指标偏高。",
        "",
    ),
    "empty": ("{count:,} 行的回答为空。", "点赞空回答会教模型什么都不说；点踩则教它随便说点什么。", "删除这些行"),
    "one-word": ("{count:,} 行的回答只有一个词。", "分类任务没有问题；若是对话，请抽看几行。", ""),
    "template": (
        "{count:,} 行的文本中含有对话模板的标记。",
        "模型自己的模板会再加一次；请提供纯文本或消息列表。",
        "去掉回答末尾的标记，其余由你处理",
    ),
    "damage": (
        "{count:,} 行含有损坏的字符（例如 é 变成 Ã©、� 或控制字符）。",
        "模型会学着写出它们；请查明编码在哪里出错。",
        "还原被误读为 Windows-1252 的 UTF-8，并去掉控制字符",
    ),
    "keys": (
        "{count:,} 行含有疑似密钥的内容。",
        "模型可能复述训练过的内容：请吊销这些密钥，并在训练前去掉。",
        "替换为 [key]",
    ),
    "email": ("{count:,} 行含有电子邮件地址。", "模型可能复述它；请确认其主人同意。", "替换为 [email]"),
    "formula": (
        "{count:,} 行含有会被电子表格当作公式的文本（=…、#NAME?）。",
        "这里按纯文本处理；若文件曾经过电子表格，请检查是否有文本丢失。",
        "",
    ),
    "length": (
        "仅凭长度区分赞踩的 AUC 为 {telling:.2f}（0.5 为随机）：点赞的回答中位 {median_chars_up:,.0f} 字符，"
        "点踩 {median_chars_down:,.0f}。",
        "AUC 离 0.5 越远，模型越可能学到长度而非质量；可为任一侧补充其他长度的回答。",
        "",
    ),
    "language": (
        "{count:,} 行的回答与提问语言不同（抽样 {sampled_rows:,} 行）。",
        "这是按文字与常用词作的猜测。翻译任务也会如此；否则请抽看几行。",
        "",
    ),
    "one-sided": (
        "{with_several:,} 个有多个回答的提示中，{one_sided:,} 个只有一类评价。",
        "KTO 不需要成对数据；但同一提示兼有赞踩时，学到的是差别而不是话题。",
        "",
    ),
    "parts": ("含多个回答的行中，有 {count:,} 个回答被略去。", "若应计入，请调整阈值。", ""),
    "mismatched": (
        "每批 {batch_size} 行可为 z0 得到 {mismatched_pairs:.1f} 个错配对。",
        "z0 由其他提示的回答估计；错配对偏少时，请在更多提示上收集反馈。",
        "",
    ),
    "balance": ("点赞与点踩的数量很不均衡。", "权重 λ 会补偿一部分；最好在少的一侧收集更多反馈。", ""),
}

# Sentences of the engine and of the checks: English as they say it, with (.+) for what varies, and Chinese.
SENTENCES_ZH: dict[str, str] = {
    r"There is no judge (.+); there are .*": "没有评判者 {0}。",
    r"There is no judge (.+)\.": "没有评判者 {0}。",
    r"Judge `(.+?)` is written `(.+?)`, not (.+)\.": "评判者 `{0}` 应写作 `{1}`，而不是 {2}。",
    r"Judge `length` is written .*, not (.+)\.": "词数应写作 10-50、-50 或 10-，而不是 {0}。",
    r"Judge `regex` can't read its pattern (.+?): (.+)\.": "无法读取正则表达式 {0}：{1}。",
    r"Judge `(.+)` needs an `expected` or `answer` beside every prompt; prompt (.+) has none\.": "评判者 `{0}` "
    "要求每个提示都有 `expected` 或 `answer`；第 {1} 个提示没有。",
    r"There is no prompt to evaluate on\.": "没有可用于评估的提示。",
    r"There is no prompt in (.+)\.": "{0} 中没有提示。",
    r"The judge's address should begin with http.*": "评判者的地址应以 http:// 或 https:// 开头，"
    "例如 http://127.0.0.1:8000/v1。",
    r"The judge's address should hold no name, password or query; .*": "评判者的地址中不应含用户名、密码或查询参数；"
    "请填写密钥所在的环境变量。",
    r"(.+) is not the address of an endpoint\.": "{0} 不是接口地址。",
    r"The judge at an endpoint needs the name of its model\.": "请填写接口上的模型名称。",
    r"Name the environment variable that holds the key, .*": "请填写密钥所在的环境变量名，例如 OPENAI_API_KEY，"
    "不要填写密钥本身。",
    r"From this page, a key comes from an environment variable whose name ends in _API_KEY\.": "在本页，"
    "密钥只能来自名称以 _API_KEY 结尾的环境变量。",
    r"The environment variable (.+) is not set, .*": "环境变量 {0} 未设置，因此没有密钥。",
    r"What the environment variable (.+) holds can't be a key\.": "环境变量 {0} 的内容不可能是密钥。",
    r"Nobody answers at (.+); is the judge's server running\?": "{0} 没有应答；评判者的服务器在运行吗？",
    r"The judge at (.+?) refused: (.+)\.": "{0} 的评判者拒绝了：{1}。",
    r"The judge at (.+?) failed (.+?) times: (.+)\.": "{0} 的评判者失败了 {1} 次：{2}。",
    r"What is at (.+) does not answer like an OpenAI-compatible endpoint\.": "{0} 的应答不像兼容 OpenAI 的接口。",
    r"An evaluation of run (.+) is at work already; .*": "训练 {0} 的一次评估正在进行；请先停止或等它结束。",
    r"Run (.+) has held no prompts out; its eval_fraction is (.+)\.": "训练 {0} 没有留出提示；"
    "其 eval_fraction 为 {1}。",
    r"The feedback of run (.+) has changed since, .*": "训练 {0} 的反馈数据已改变，因此无法得知当时留出了哪些提示。",
    r"Run (.+) has kept no checkpoints; .*": "训练 {0} 没有保留检查点；由 save_steps 与 save_total_limit 决定。",
    r"That is not a file of prompts that this page received; .*": "本页没有收到这个提示文件；请重新添加。",
    r"Its process ended without a word\.": "进程已无声结束。",
    r"Can't load the reward model (.+?): (.+)\.": "无法加载奖励模型 {0}：{1}。",
    r"Model (.+) has no trained head to give rewards with\.": "模型 {0} 没有训练过的奖励输出头。",
    r"A reward model has one output or two; (.+) has (.+) of them\.": "奖励模型应有一个或两个输出；{0} 有 {1} 个。",
    r"The winning side's answers are (.+?) times as long as the other side's: .*": "胜出一方的回答长度是"
    "另一方的 {0} 倍：请看看是否只是长度起了作用。",
    r"Starting the training process\.": "正在启动训练进程。",
    r"Loading the model\.": "正在加载模型。",
    r"Computing the reference: (.+) of (.+) batches\.": "正在计算参考模型：第 {0} / {1} 批。",
    r"Stopping, and saving the adapter\.": "正在停止并保存适配器。",
    r"Stopped before the first step\.": "在第一步之前已停止。",
    r"Interrupted\.": "已中断。",
    r"Out of memory once: going on with (.+) tokens a pass\.": "内存不足一次：改为每次前向 {0} 个词元，继续训练。",
    r"Out of memory with a single sequence of (.+) tokens: .*": "单个 {0} 词元的序列就超出内存：请调小 max_length，"
    "或开启 load_in_4bit、gradient_checkpointing。",
    r"Its process ended without a word; the end of its log says more\.": "进程已无声结束；日志末尾有更多信息。",
    r"The loss or its gradient is no longer a number at step (.+?): .*": "第 {0} 步的损失或梯度不再是数值："
    "请降低学习率，或用 `kto check` 检查异常行。",
    r"There is no run yet\.": "还没有训练。",
    r"Run (.+) is (.+) already(?:, in process .+)?\.": "训练 {0} 已在进行中。",
    r"Run (.+) is (.+), so it can't be asked to (.+)\.": "训练 {0} 已结束，无法再执行此操作。",
    r"Run (.+) is (.+); only a stopped, failed or crashed run can be resumed\.": "训练 {0} 无法继续："
    "只有已停止、失败或崩溃的训练才能继续。",
    r"Run (.+) is (.+); stop it before you delete it\.": "训练 {0} 正在进行；请先停止再删除。",
    r"Run (.+) is (.+); export it when it has ended\.": "训练 {0} 正在进行；请在结束后导出。",
    r"Run (.+) has no adapter yet; it is (.+)\.": "训练 {0} 还没有适配器。",
    r"There is no deleted run (.+) to take back\.": "没有可恢复的训练 {0}。",
    r"There is no model in (.+): no such folder\.": "{0} 中没有模型：文件夹不存在。",
    r"There is no (.+) device on this machine; use `device: auto`\.": "本机没有 {0} 设备；请用 `device: auto`。",
    r"Can't load (?:the tokenizer of )?model (.+?): (.+)\.": "无法加载模型 {0}：{1}。",
    r"Optimizer (.+) needs a CUDA GPU; .*": "优化器 {0} 需要 CUDA 显卡；此处请用 `optim: adamw`。",
    r"No thumbs have been collected in the workspace (.+) yet\.": "此工作区还没有收集到反馈。",
    r"There is no feedback (.+) here; drop the file again\.": "这里没有反馈 {0}；请重新拖入文件。",
    r"That is not a file that this page received; drop it again\.": "本页没有收到这个文件；请重新拖入。",
    r"(.+) is empty\.": "{0} 是空文件。",
    r"(.+) is neither text nor Parquet nor Arrow\.": "{0} 既不是文本，也不是 Parquet 或 Arrow。",
    r"(.+) is damaged: (.+)\.": "{0} 已损坏：{1}。",
    r"The process that answers has died; the end of (.+) says more\. .*": "回答进程已退出；{0} 的末尾有更多信息。"
    "再问一次即可重新启动。",
    r"A preset's name has 1 to 60 letters, digits, spaces, dots or dashes\.": "预设名称为 1 到 60 个字母、"
    "数字、空格、点或连字符。",
    r"There is no adapter in (.+)\.": "{0} 中没有适配器。",
    r"There is no LoRA adapter in (.+); .*": "{0} 中没有 LoRA 适配器：缺少 adapter_model.safetensors。",
    r"The adapter in (.+) can't be read: .*": "{0} 中的适配器无法读取：adapter_config.json 已损坏。",
    r"The adapter in (.+) does not fit the model: (.+)\.": "{0} 中的适配器与模型不符：{1}。",
    r"Can't put an adapter on (.+): (.+)\.": "无法给 {0} 加适配器：{1}。",
    r"Run (.+) was trained on model (.+), so its adapter is no start for (.+)\.": "训练 {0} 用的是模型 {1}，"
    "它的适配器不能作为 {2} 的起点。",
    r"Run (.+) tuned the whole model, so it has no adapter; use its model in (.+)\.": "训练 {0} 微调了整个模型，"
    "因此没有适配器；请使用 {1} 中的模型。",
    r"Run (.+) has no (.+) model; it is (.+)\.": "训练 {0} 还没有可用的模型。",
    r"Run (.+) has no '(.+)'; it has (.+)\.": "训练 {0} 没有 {1}；它有 {2}。",
    r"adapter_dtype bfloat16 needs a model in bfloat16; .*": "adapter_dtype 为 bfloat16 时，模型也须为 bfloat16。",
    r"(.+) holds (.+) usable row; KTO needs at least two, for a mismatched pair\.": "{0} 只有 {1} 行可用；"
    "KTO 至少需要两行，才能组成错配对。",
    r"(.+) has fewer than two thumbs up to imitate\.": "{0} 中的点赞不足两个，无从模仿。",
    r"There is no run in (.+); .*": "{0} 中没有训练。",
    r"There is no run (.+) in (.+); .*": "{1} 中没有训练 {0}。",
    r"Can't make a run in (.+): (.+)\.": "无法在 {0} 中新建训练：{1}。",
    r"Can't write to (?:the workspace )?(.+): (.+)\.": "无法写入 {0}：{1}。",
    r"Can't save the preset: (.+)\.": "无法保存预设：{0}。",
    r"There is no config file (.+)\.": "没有配置文件 {0}。",
    r"Option `(.+)` should be at least (.+), not (.+)\.": "选项 `{0}` 至少应为 {1}，而不是 {2}。",
    r"Option `(.+)` should be at most (.+), not (.+)\.": "选项 `{0}` 至多应为 {1}，而不是 {2}。",
    r"Option `(.+)` should be greater than (.+), not (.+)\.": "选项 `{0}` 应大于 {1}，而不是 {2}。",
    r"Option `(.+)` should be less than (.+), not (.+)\.": "选项 `{0}` 应小于 {1}，而不是 {2}。",
    r"Option `(.+)` should be a whole number, not empty\.": "选项 `{0}` 应为整数，不能为空。",
    r"Option `(.+)` should be a number, not empty\.": "选项 `{0}` 应为数字，不能为空。",
    r"Option `(.+)` should be (.+), not (.+)\.": "选项 `{0}` 应为 {1}，而不是 {2}。",
    r"Option `tokens_per_pass` must be `auto` or at least 1\.": "选项 `tokens_per_pass` 应为 `auto`，或至少为 1。",
    r"Option `max_steps` must be .*": "选项 `max_steps` 至少为 1；-1 表示由 `num_train_epochs` 决定。",
    r"Options `desirable_weight` and `undesirable_weight` are both 0.*": "两个权重都是 0，什么也学不到。",
}


# Why rows and files can't be used, as feedback/ says it; what a place holds is retold too.
REASONS_ZH: dict[str, str] = {
    r"(.+?): none of its (.+) rows can be used; \S+ (\d+): (.+)\.": "{0}：{1} 行全都无法使用；第 {2} 行：{3}。",
    r"(.+?): its only row can't be used; \S+ (\d+): (.+)\.": "{0}：唯一的一行无法使用；第 {1} 行：{2}。",
    r"(.+) holds no rows\.": "{0} 没有任何行。",
    r"the line is (.+), not a JSON object": "该行是{0}，而不是 JSON 对象",
    r"the row is (.+), not a (?:JSON object|dict)": "该行是{0}，而不是 JSON 对象",
    r"the line is not valid UTF-8 \(byte (.+)\)": "该行不是有效的 UTF-8（第 {0} 字节）",
    r"the line is not valid JSON \((.+), column (.+)\)": "该行不是有效的 JSON（第 {1} 列：{0}）",
    r"the line is not valid JSON \((.+)\)": "该行不是有效的 JSON（{0}）",
    r"not valid JSON \((.+), line (.+)\); nothing after this row was read": "不是有效的 JSON（第 {1} 行：{0}）；"
    "其后的内容未读取",
    r"the JSON is nested too deeply": "JSON 嵌套过深",
    r"the JSON is nested too deeply; nothing after this row was read": "JSON 嵌套过深；其后的内容未读取",
    r"the line holds NUL bytes": "该行含有 NUL 字节",
    r"the line is longer than (.+) MB": "该行超过 {0} MB",
    r"the row is longer than (.+) MB; nothing after it was read": "该行超过 {0} MB；其后的内容未读取",
    r"the row has (.+) columns, the header (.+)": "该行有 {0} 列，而表头有 {1} 列",
    r"the row can't be read \((.+)\)": "该行无法读取（{0}）",
    r"the row holds no answer": "该行没有回答",
    r"the file ends before its list is closed, so rows may be missing": "文件在列表结束之前就终止了，可能缺少若干行",
    r"the file ends inside this row": "文件在这一行中间终止",
    r"a quote that opens here is not closed within (.+) MB; nothing after it was read": "此处的引号在 {0} MB 内"
    "没有闭合；其后的内容未读取",
    r"a quote that opens here is never closed, so the row takes in the rest of the file": "此处的引号没有闭合，"
    "文件的其余部分都被当作这一行",
    r"annotations is empty: nobody has judged this task": "annotations 为空：还没有人评价这个任务",
    r"choices holds (.+) answers, and one thumb can't tell which is meant": "choices 含有 {0} 个回答，"
    "一个评价无法说明指的是哪一个",
    r"choices holds no message": "choices 中没有消息",
    r"ratings does not hold one number for each of (.+) answers": "ratings 没有为 {0} 个回答各给一个数值",
    r"selected names the left or right answer, and which these are can't be told": "selected 只说左边或右边的回答，"
    "而无法得知哪个是哪个",
    r"(.+): its annotators disagree \((.+), (.+)\)": "{0}：标注者意见不一（{1}，{2}）",
    r"(.+) and (.+) share no prompt at their start": "{0} 与 {1} 的开头没有共同的提示",
    r"(.+) and (.+) are not of one kind": "{0} 与 {1} 的类型不同",
    r"(.+) and (.+) are the same": "{0} 与 {1} 相同",
    r"(.+) is not a list of \[question, answer\]": "{0} 不是 [question, answer] 的列表",
    r"(.+) is not a list of messages": "{0} 不是消息列表",
    r"(.+) is not a list of tools": "{0} 不是工具列表",
    r"(.+) is not a transcript of Human and Assistant": "{0} 不是 Human 与 Assistant 的对话记录",
    r"(.+) is not text": "{0} 不是文本",
    r"(.+) is missing": "缺少 {0}",
    r"(.+) is empty": "{0} 为空",
    r"(.+) holds no answer after the prompt": "{0} 在提示之后没有回答",
    r"(.+) holds only the answer and no prompt": "{0} 只有回答，没有提示",
    r"(.+) holds half an emoji that is not valid UTF-8": "{0} 含有半个表情符号，不是有效的 UTF-8",
    r"(.+) holds bytes that is not valid UTF-8": "{0} 含有不是有效 UTF-8 的字节",
    r"(.+) holds a block of type (.+); only text can be trained on": "{0} 含有类型为 {1} 的内容；只能用文本训练",
    r"(.+) holds a message that is not an object": "{0} 含有不是对象的消息",
    r"(.+) holds a message with the role (.+)": "{0} 含有角色为 {1} 的消息",
    r"(.+) ends with a message of the (.+), not with the answer to judge": "{0} 以 {1} 的消息结尾，"
    "而不是以被评价的回答结尾",
    r"(.+) ends with a tool call without text, which can't be trained on": "{0} 以没有文本的工具调用结尾，无法用于训练",
    r"(.+) 0 among 1 and -1 is neither thumbs up nor thumbs down": "{0} 的取值 0 与 1、-1 并存，既不是点赞也不是点踩",
    r"(.+) (\S+) lies on the cut (\S+): neither up nor down": "{0} 的取值 {1} 恰在分界 {2} 上：既不算点赞也不算点踩",
    r"(\S+) (.+) is neither thumbs up nor thumbs down": "{0} 的取值 {1} 既不是点赞也不是点踩",
    r"The better answer is empty\.": "更好的回答是空的。",
    r"The better answer is the same as the answer\.": "更好的回答与原回答相同。",
    # files
    r"The dataset in (.+) is damaged: (.+)\.": "{0} 中的数据集已损坏：{1}。",
    r"(.+) is a folder; give a file in it, .*": "{0} 是文件夹；请给出其中的文件，"
    "或由 datasets 的 save_to_disk 写出的文件夹。",
    r"(.+) is not a regular file but a pipe, .*": "{0} 不是普通文件；请先把内容保存到文件。",
    r"(.+) is a zip archive; unpack it first\.": "{0} 是 zip 压缩包；请先解压。",
    r"(.+) is not a complete (.+) file: (.+)\.": "{0} 不是完整的 {1} 文件：{2}。",
    r"(.+) unpacks to more than (.+) times its size: .*": "{0} 解压后超过原大小的 {1} 倍，疑似压缩炸弹。",
    r"(.+) is empty: it holds nothing but white space\.": "{0} 是空文件：只有空白字符。",
    r"(.+) is not feedback as it stands: .*, and its columns are (.+); say which is which with a mapping\.": "{0} "
    "还不能当作反馈：需要 prompt、completion 与 label，或 prompt、chosen 与 rejected，或 messages 与 label；"
    "而它的列是 {1}。",
    r"(.+) has no column `(.+)` for (.+); its columns are (.+)\.": "{0} 没有用作 {2} 的列 `{1}`；它的列是 {3}。",
    r"The CSV header names the column `(.+)` twice\.": "CSV 表头中列 `{0}` 出现了两次。",
    r"A mapping is written part=column, such as prompt=question, not `(.+)`\.": "对应关系写作“部分=列”，"
    "例如 prompt=question，而不是 `{0}`。",
    r"A mapping has no part `(.+)`; its parts are (.+)\.": "对应关系中没有 `{0}` 这一部分；可用的有 {1}。",
    r"The mapping's threshold should be a number, not (.+)\.": "对应关系中的阈值应为数字，而不是 {0}。",
    r"There is no file (.+), and no such dataset can be had from the hub: (.+)\.": "没有文件 {0}，"
    "也无法从 Hub 获得同名数据集：{1}。",
    r"There is no file (.+)\.": "没有文件 {0}。",
    r"There is no prompt in (.+)\.": "{0} 中没有提示。",
    r"Run (.+) held no prompts out; take all of its data, or a file\.": "训练 {0} 没有留出提示；请用其全部数据或文件。",
    r"Prompt (.+) of (.+) is neither a text nor a list of messages\.": "{1} 的第 {0} 个提示既不是文本，"
    "也不是消息列表。",
    r"(.+) is not JSON: (.+) in line (.+)\.": "{0} 不是 JSON：第 {2} 行：{1}。",
    r"Can't read (?:the config file )?(.+): (.+)\.": "无法读取 {0}：{1}。",
    r"Can't write (.+): (.+)\.": "无法写入 {0}：{1}。",
    r"Can't keep the rows in (.+): (.+)\.": "无法在 {0} 中保存数据行：{1}。",
    r"Can't use the thumbs in (.+): (.+)\.": "无法使用 {0} 中的反馈：{1}。",
    r"There is no fix `(.+)`; there are (.+)\.": "没有名为 `{0}` 的修复；可用的有 {1}。",
    r"(.+) exists; fixes never write over a file\.": "{0} 已存在；修复不会覆盖文件。",
    r"There is no thumb (.+) in (.+)\.": "{1} 中没有反馈 {0}。",
    r"Thumbs are exported to a \.jsonl or a \.parquet file, not to (.+)\.": "反馈可导出为 .jsonl 或 .parquet 文件，"
    "而不是 {0}。",
    r"(.+) was written by a newer workbench; update this one\.": "{0} 由更新版本的工作台写成；请更新本程序。",
    r"Feedback is a file, a name, a list of dicts or a table, not a (.+)\.": "反馈应为文件、名称、字典列表或表格，"
    "而不是 {0}。",
    r"assets/(.+) is missing; `(.+)` makes the demo's files again\.": "缺少 assets/{0}；`{1}` 可重新生成示例文件。",
    r"The tokenizer of model (.+) names no end-of-sequence token, so answers could not end\.": "模型 {0} "
    "的分词器没有结束词元，回答将无法结束。",
    r"The model's chat template refuses messages of roles (.+): (.+)\.": "模型的对话模板不接受角色为 {0} 的消息：{1}。",
}

# What may stand inside these sentences: kinds of values, and reasons of Python and of the system.
PIECES_ZH: dict[str, str] = {
    "an object": "对象",
    "a list": "列表",
    "a text": "文本",
    "a number": "数字",
    "true or false": "真假值",
    "null": "空值",
    "a number is too long": "数字过长",
    "it is not UTF-8 text": "不是 UTF-8 文本",
    "permission denied": "没有权限",
    "Permission denied": "没有权限",
    "No space left on device": "磁盘空间不足",
    "No such file or directory": "没有这个文件或文件夹",
    "Read-only file system": "文件系统为只读",
    "Is a directory": "是文件夹",
    "Expecting value": "此处应有值",
    "Expecting ',' delimiter": "此处应有逗号",
    "Expecting ':' delimiter": "此处应有冒号",
    "Expecting property name enclosed in double quotes": "此处应有带双引号的键",
    "Unterminated string": "字符串没有结束",
    "Unterminated string starting at": "字符串没有结束",
    "Invalid control character at": "含有无效的控制字符",
    "Invalid control character": "含有无效的控制字符",
    "Invalid \\escape": "无效的转义",
    "Invalid \\uXXXX escape": "无效的 \\u 转义",
    "Extra data": "末尾有多余的内容",
    "Illegal trailing comma before end of object": "对象末尾有多余的逗号",
    "Illegal trailing comma before end of array": "列表末尾有多余的逗号",
}


def _with_options() -> dict[str, tuple[str, str]]:
    words = dict(WORDS)
    for kind, english in NOTES.items():
        for part, texts in zip(("what", "hint"), zip(english, NOTES_ZH[kind], strict=True), strict=True):
            words[f"note.{kind}.{part}"] = texts
    for name, field in options().items():
        words[f"option.{name}"] = OPTION_NAMES.get(name, (name, name))
        words[f"help.{name}"] = (field.description or "", OPTION_HELP_ZH.get(name, field.description or ""))
    return words


_ALL = _with_options()

# The browser asks for its own language first, then for the plain one; whoever reads Chinese gets the Chinese we have.
TRANSLATIONS: dict[str, dict[str, str]] = {
    locale: {key: pair[LANGUAGES.index(language)] for key, pair in _ALL.items()}
    for locale, language in (("en", "en"), ("zh", "zh"), ("zh-CN", "zh"), ("zh-TW", "zh"))
}


def label(key: str) -> I18nData:
    """A string that the browser shows in its own language."""
    if key not in _ALL:
        raise KeyError(key)
    return I18nData(key)


def say(language: str, key: str, **values: Any) -> str:
    """A string in a language, its places filled."""
    text = _ALL[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def retell(language: str, sentence: object) -> str:
    """A sentence of the engine in the page's language; in English where there is no translation."""
    said = str(sentence)
    if language != "zh" or said in PIECES_ZH:
        return PIECES_ZH.get(said, said) if language == "zh" else said
    for patterns in (REASONS_ZH, SENTENCES_ZH):
        for pattern, chinese in patterns.items():
            if found := re.fullmatch(pattern, said, re.DOTALL):
                return chinese.format(*(retell(language, part or "") for part in found.groups()))
    return said


def finding_words(language: str, finding: Finding) -> tuple[str, str, str]:
    """A finding's title, advice and fix in the page's language; in English where there is no translation."""
    english = finding.title, finding.advice, finding.fix or ""
    if language != "zh" or finding.name not in FINDINGS_ZH:
        return english
    title, advice, fix = FINDINGS_ZH[finding.name]
    figures = dict(finding.details)
    if "auc" in figures:  # told as in English: above a half, whichever side is longer
        figures["telling"] = max(figures["auc"], 1 - figures["auc"])
    try:
        title = title.format(count=finding.count, **figures)
    except (KeyError, ValueError):  # a finding with other figures than it had when it was translated
        return english
    return title, advice if finding.advice else "", fix if finding.fix else ""


def language_of(request: gr.Request | None) -> str:
    """The language that the browser asks for: `zh` if it begins with that, else `en`."""
    headers = getattr(request, "headers", None) or {}
    return "zh" if str(headers.get("accept-language", "")).strip().lower().startswith("zh") else "en"
